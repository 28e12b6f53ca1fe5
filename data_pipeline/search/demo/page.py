"""The demo page: the event handlers of its components."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import gradio as gr

from ..gallery import PersonGallery
from ..hits import absence_note
from . import cards
from .address import from_address, to_address
from .filters import RANGES, card_columns, conditions, in_words, menus, range_in_text, ranges, time_label
from .layout import Layout
from .panel import Panel
from .pictures import Pictures
from .queries import Queries
from .session import COMPARED, MOST_PAGES, Query, Session, Settings, sent
from .tray import Tray

_MARKS = 100  # marked images of one search
_CONCURRENT = {"searches": 4, "frames": 2, "maps": 1}  # requests of each kind
# The zip file exists when this runs, but the page renders its link a moment later.
_DOWNLOAD = "() => setTimeout(() => document.querySelector('#export-file')?.click(), 300)"


class SearchPage:
    """The search page of a gallery, for several concurrent users; `blocks` is the gradio app.

    Each handler returns the updates of the components that change, by component.
    """

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        self._pictures = Pictures(gallery)
        self._queries = Queries(gallery, self._pictures)
        self._shown = gallery.manifest  # of the cached thumbnails
        with gr.Blocks(title="Find people by a sentence", analytics_enabled=False, delete_cache=(60, 3500)) as blocks:
            self.layout = Layout(gallery)
            self.panel = Panel(self.layout, self._pictures)
            self.tray = Tray(self.layout, self._pictures, blocks.GRADIO_CACHE)
            self._connect(gr.State(self.new_session()))
        self.blocks = blocks

    def new_session(self) -> Session:
        """Returns the state of a new window."""
        lists = menus(self._gallery)
        return Session(self._gallery.manifest, tuple(lists), tuple(ranges(self._gallery, lists)))

    def _connect(self, session: gr.State) -> None:
        page = self.layout
        found = [
            page.problem, page.status, page.grid, page.previous, page.next, page.export, page.detail, page.filters,
            page.header, page.sentence, page.composed, page.marks, *page.controls,
        ]  # fmt: skip

        def on(
            events: list[Any] | Callable[..., Any],
            work: Callable[..., Any],
            inputs: Sequence[Any],
            outputs: Sequence[Any],
            kind: str = "searches",
            mode: str = "always_last",  # an event during another of its kind runs after it; "multiple": all events run
        ) -> Any:
            register = partial(gr.on, events) if isinstance(events, list) else events  # gr.on refuses custom events
            return register(
                work,
                [session, *inputs],
                list(outputs),
                api_visibility="private",
                show_progress="minimal" if kind == "searches" else "hidden",
                concurrency_id=kind,
                concurrency_limit=_CONCURRENT[kind],
                trigger_mode=mode,
            )

        controls = page.controls
        on([page.search.click, page.sentence.submit], self.submit, [page.sentence, page.composed, *controls], found)
        on(page.picture.upload, self.ask_picture, [page.picture, *controls], found)
        changes = [page.typed.submit, page.typed.blur, page.first.change, page.last.change, page.changed.change]
        changes += [page.count.input, page.grouped.input, page.in_detail.input, *(menu.input for menu in page.menus)]
        changes += [bound.change for bound in page.bounds]
        on(changes, self.refine, controls, found)
        on(page.status.clear, self.clear_filters, controls, found)
        on(page.like.click, self.more_like, controls, found)
        on(page.grid.restore, self.restore, [], found)
        on(page.previous.click, partial(self.turn_page, -1), [], found)
        on(page.next.click, partial(self.turn_page, 1), [], found)
        on(page.grid.mark, self.mark, [], [page.marks], mode="multiple")
        on(page.marks.apply, self.search_marks, controls, found)
        on(page.marks.clear, self.clear_marks, controls, found)
        panel = [page.large, page.maps, page.source, page.details, page.detail]
        opened = on(page.grid.open, self.panel.show, [], panel)
        on(opened.then, self.panel.find_source, [], [page.source], "frames")
        on(opened.then, self.panel.look, [], [page.maps], "maps")
        on(page.close.click, self.panel.close, [], [page.detail])
        kept = [page.tray, page.export_tray]
        on(page.grid.keep, self.tray.keep, [], kept, mode="multiple")
        on(page.tray.drop, self.tray.drop, [], kept, mode="multiple")
        for button, work in ((page.export, self.tray.export), (page.export_tray, self.tray.export_kept)):
            on(button.click, work, [], [page.problem, page.file]).success(None, None, None, js=_DOWNLOAD)

    def submit(self, session: Session, sentence: str, composed: bool, *values: Any) -> dict[Any, Any]:
        """Handles a search by sentence or, with `composed`, by the shown picture and the sentence."""
        query = session.query
        if query is None or query.kind == "q" or composed is not True:
            return self.ask(session, sentence, *values)
        compose = partial(self._queries.composed, session, query.kind, query.key, sentence or "")
        return self._ask(session, values, cache(compose))

    def ask(self, session: Session, sentence: str, *values: Any) -> dict[Any, Any]:
        """Handles a search by sentence."""
        return self._ask(session, values, cache(lambda: self._queries.sentence(sentence or "")))

    def ask_picture(self, session: Session, file: str, *values: Any) -> dict[Any, Any]:
        """Handles a search by an uploaded picture."""
        return self._ask(session, values, cache(lambda: self._queries.picture(session, file)))

    def more_like(self, session: Session, *values: Any) -> dict[Any, Any]:
        """Handles a search by the opened image."""
        hit = session.shown
        return self._nothing if hit is None else self._ask(session, values, cache(lambda: self._queries.like(hit.name)))

    def refine(self, session: Session, *values: Any) -> dict[Any, Any]:
        """Repeats the latest question with the current controls, if they have changed."""
        return self._ask(session, values, session.source, only_changes=True)

    def clear_filters(self, session: Session, *values: Any) -> dict[Any, Any]:
        """Repeats the latest question without filters."""
        settings = replace(session.settings.without_filters(), changed=values[0])
        updates = self._answer(session, settings.validated, session.source)
        return updates | self._set_controls(session, settings)

    def turn_page(self, step: int, session: Session) -> dict[Any, Any]:
        """Shows the hits before or after the shown ones."""
        settings = replace(session.settings, page=session.settings.page + step)
        return self._answer(session, settings.validated, session.source)

    def restore(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Restores the search of an address, from the history or a link, and sets the controls to it."""
        address = sent(event, "address")
        try:
            asked = from_address(address if isinstance(address, str) else "")
        except ValueError as error:
            return {self.layout.problem: cards.error(str(error))}
        if asked is None:
            return self._start(session)
        kind, key, words, right, wrong, settings = asked
        sources: dict[str, Callable[[], Query]] = {
            "q": lambda: self._queries.sentence(key),
            "like": lambda: self._queries.like(key),
            "picture": lambda: self._queries.known_picture(session, key),
        }
        source = partial(self._queries.composed, session, kind, key, words) if words else sources[kind]
        if marks := {**dict.fromkeys(right, True), **dict.fromkeys(wrong, False)}:
            unmarked = source
            source = lambda: self._queries.marked(unmarked(), marks)  # noqa: E731
        updates = self._answer(session, settings.validated, cache(source), is_restored=True)
        return updates | self._set_controls(session, settings) | {self.layout.sentence: key if kind == "q" else words}

    def mark(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Marks a hit as right or wrong, or takes the mark away; the next search by marks uses it."""
        hit, mark = session.sent_hit(event), sent(event, "mark")
        if hit is not None and mark in ("right", "wrong") and len(session.marks) < _MARKS:
            session.marks[hit.name] = mark == "right"
        elif hit is not None:
            session.marks.pop(hit.name, None)
        return {self.layout.marks: self._marks(session)}

    def search_marks(self, session: Session, *values: Any) -> dict[Any, Any]:
        """Searches by the shown query, moved by the marked images."""
        query, marks = session.query, dict(session.marks)
        return self._ask(session, values, None if query is None else cache(lambda: self._queries.marked(query, marks)))

    def clear_marks(self, session: Session, *values: Any) -> dict[Any, Any]:
        """Removes all marks, and searches without them if they act."""
        session.marks.clear()
        if session.query is not None and not session.query.marks:
            return {self.layout.marks: self._marks(session)}
        return self.search_marks(session, *values)

    def _ask(
        self, session: Session, values: Sequence[Any], source: Callable[[], Query] | None, only_changes: bool = False
    ) -> dict[Any, Any]:
        return self._answer(
            session, lambda: Settings.checked(values, session.menus, session.ranges), source, only_changes
        )

    def _answer(
        self,
        session: Session,
        read: Callable[[], Settings],
        source: Callable[[], Query] | None,
        only_changes: bool = False,
        is_restored: bool = False,
    ) -> dict[Any, Any]:
        """Searches and returns the updated page; an error is shown above the hits of the last search.

        The answer of an event is dropped if a later one has begun: the last question wins.

        Args:
            read: returns the settings, or raises `ValueError`.
            source: returns the query; None before the first one.
            only_changes: skip the search if question and settings are those of the last event.
            is_restored: the address of the search is in the history already.
        """
        if source is None:
            return self._nothing
        turn = session.turn
        try:
            settings = read()
            asked = source, settings.compared
            if only_changes and session.asked == asked:
                return self._nothing
            session.turn += 1
            turn = session.turn
            # Set before embedding, so that a filter that changes meanwhile applies to this question
            session.source, session.asked = source, asked
            notes, updates = self._reload(session)
            try:
                query = source()
            except (ValueError, OSError):
                if session.source is source:
                    session.source = session.answered
                raise
            where = conditions(self._gallery, *settings.filters)
            beta = (self._gallery.manifest.clothing_weight or 1.0) * (1 - settings.changed / 100)
            wanted = settings.first_rank + settings.count  # one more than shown: is there a next page?
            compared = COMPARED if settings.in_detail and query.sentence is not None else 0
            if settings.in_detail and not compared:
                notes = [*notes, "a picture without a sentence cannot be compared in detail"]
            kind = None if query.marks else query.calibrated_as  # a moved vector has higher scores
            search = query.vector, max(wanted, compared), beta, where, query.digest, kind, compared, query.sentence
            hits = self._gallery.search_vector(*search)
            if settings.page > 1 and len(hits) < settings.first_rank:
                raise ValueError(f"there are only {cards.images(len(hits))}, and none on page {settings.page}")
            moved = f"moved by marks: {cards.marks_in_words(query.marks)}" if query.marks else ""
            title = ", ".join(filter(None, [query.title, moved]))
            record = self._gallery.record(title, where, beta, settings.count)
        except (ValueError, OSError) as error:
            return {self.layout.problem: cards.error(str(error))} if turn == session.turn else self._nothing
        if turn != session.turn:
            return self._nothing
        former = session.query
        push = not is_restored and (former is None or _step(query, settings) != _step(former, session.settings))
        if is_restored or former is None or _question(query) != _question(former):
            session.marks = query.marks
        session.answered, session.query, session.settings, session.shown = source, query, settings, None
        session.hits = hits[settings.first_rank - 1 : wanted - 1]
        right, wrong = list(query.right), list(query.wrong)
        session.record = replace(record, picture_sha256=query.digest, rerank=compared, right=right, wrong=wrong)
        facts = [f"clothing weight {beta:.2f}"]
        facts += [moved] if moved else []
        facts += [f"the first {min(compared, len(hits))} compared in detail"] if compared else []
        status = self._status(session, facts, [*filter(None, [absence_note(hits)]), *query.remarks, *notes])
        address = cards.place(to_address(query, settings), turn, push)
        return updates | self._found(session, address + status, len(hits) >= wanted)

    def _found(self, session: Session, status: str, has_more: bool) -> dict[Any, Any]:
        page, settings, found = self.layout, session.settings, bool(session.hits)
        active = len(in_words(time_label(self._gallery), *settings.filters))
        return {
            page.problem: "",
            page.status: status,
            page.marks: self._marks(session),
            page.grid: self._grid(session) if found else cards.no_hits(),
            page.previous: gr.update(visible=settings.page > 1),
            page.next: gr.update(visible=has_more and settings.page < MOST_PAGES),
            page.export: gr.update(visible=found),
            page.detail: gr.update(visible=False),
            page.composed: gr.update(visible=session.query is not None and session.query.kind != "q"),
            page.filters: gr.update(label=f"Filters ({active} active)" if active else "Filters"),
        }

    def _status(self, session: Session, facts: Sequence[str], notes: Sequence[str]) -> str:
        query, settings, count = session.query, session.settings, len(session.hits)
        assert query is not None
        first = settings.first_rank
        shown = cards.images(count) if first == 1 else f"hits {first} to {first + count - 1}"
        filters = in_words(time_label(self._gallery), *settings.filters)
        return cards.status(query.title, query.picture, [shown, *facts], filters, notes)

    def _grid(self, session: Session) -> str:
        settings, columns = session.settings, card_columns(self._gallery)
        return cards.grid(session.hits, self._pictures, settings.grouped, columns, settings.first_rank)

    def _marks(self, session: Session) -> str:
        return cards.marks(session.marks, {} if session.query is None else session.query.marks)

    def _start(self, session: Session) -> dict[Any, Any]:
        """Returns the page before the first search; the tray stays."""
        page = self.layout
        session.turn += 1
        session.query = session.source = session.answered = session.asked = session.shown = session.record = None
        session.hits, session.settings, session.marks = [], Settings(), {}
        empty = {
            page.grid: cards.welcome(len(self._gallery)),
            page.status: cards.place("", session.turn, push=False),
            page.sentence: "",
        }
        return self._found(session, "", has_more=False) | empty | self._set_controls(session, session.settings)

    def _reload(self, session: Session) -> tuple[list[str], dict[Any, Any]]:
        """Opens a newly published index; returns a note and the updated components for a page of the former one."""
        self._gallery.reload()
        manifest = self._gallery.manifest
        if self._shown != manifest:
            self._pictures.thumbnail.cache_clear()
            self._shown = manifest
        if session.manifest == manifest:
            return [], {}
        new = self.new_session()
        session.manifest, session.menus, session.ranges = manifest, new.menus, new.ranges
        return [f"the index was updated: {cards.images(len(self._gallery))}"], self.layout.index_updates(self._gallery)

    def _set_controls(self, session: Session, settings: Settings) -> dict[Any, Any]:
        values: list[Any] = [settings.changed, settings.count, settings.grouped, settings.in_detail]
        values += [settings.typed, settings.first, settings.last]
        bounds = [range_in_text(settings.numbers.get(column)) for column in session.ranges]
        bounds += [""] * (RANGES - len(bounds))
        chosen = [settings.chosen.get(column, []) for column in session.menus]
        return {
            control: gr.update(value=value)
            for control, value in zip(self.layout.controls, [*values, *bounds, *chosen], strict=False)
        }

    @property
    def _nothing(self) -> dict[Any, Any]:
        return {self.layout.problem: gr.skip()}


def _question(query: Query) -> tuple[str, ...]:
    """What a search asks for, without marks and settings."""
    return query.kind, query.key, query.words


def _step(query: Query, settings: Settings) -> tuple[Any, ...]:
    """What makes a search a step in the history: everything but the slider."""
    return *_question(query), query.marks, replace(settings, changed=0)
