"""The demo page: the event handlers of its components."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..gallery import PersonGallery, PersonHit
from ..hits import absence_note
from ..hits_export import export_hits
from ..search_record import SearchRecord
from . import cards
from .filters import card_columns, conditions, in_words, menus, time_column, time_label
from .layout import Layout
from .pictures import Pictures
from .queries import Queries
from .session import MOST_PAGES, Query, Session, Settings, from_address, to_address

_TRAY = 200  # kept images of one window
_SEARCHES, _MAPS = 4, 1  # concurrent requests
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
            self._connect(gr.State(Session(manifest=gallery.manifest, menus=tuple(menus(gallery)))))
        self.blocks = blocks

    def _connect(self, session: gr.State) -> None:
        page = self.layout
        found = [
            page.problem, page.status, page.grid, page.previous, page.next, page.export, page.detail, page.filters,
            page.header, page.sentence, page.composed, *page.controls,
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
                show_progress="hidden" if kind == "maps" else "minimal",
                concurrency_id=kind,
                concurrency_limit=_MAPS if kind == "maps" else _SEARCHES,
                trigger_mode=mode,
            )

        controls = page.controls
        on([page.search.click, page.sentence.submit], self.submit, [page.sentence, page.composed, *controls], found)
        on(page.picture.upload, self.ask_picture, [page.picture, *controls], found)
        changes = [page.typed.submit, page.typed.blur, page.first.change, page.last.change, page.changed.change]
        changes += [page.count.input, page.grouped.input, *(menu.input for menu in page.menus)]
        on(changes, self.refine, controls, found)
        on(page.status.clear, self.clear_filters, controls, found)
        on(page.like.click, self.more_like, controls, found)
        on(page.grid.restore, self.restore, [], found)
        on(page.previous.click, partial(self.turn_page, -1), [], found)
        on(page.next.click, partial(self.turn_page, 1), [], found)
        panel = [page.large, page.maps, page.details, page.detail]
        opened = on(page.grid.open, self.show, [], panel)
        on(opened.then, self.look, [], [page.maps], "maps")
        on(page.close.click, self.close, [], [page.detail])
        kept = [page.tray, page.export_tray]
        on(page.grid.keep, self.keep, [], kept, mode="multiple")
        on(page.tray.drop, self.drop, [], kept, mode="multiple")
        for button, work in ((page.export, self.export), (page.export_tray, self.export_tray)):
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
        address = event._data.get("address") if isinstance(event._data, dict) else None
        try:
            asked = from_address(address if isinstance(address, str) else "")
        except ValueError as error:
            return {self.layout.problem: cards.error(str(error))}
        if asked is None:
            return self._start(session)
        kind, key, words, settings = asked
        sources: dict[str, Callable[[], Query]] = {
            "q": lambda: self._queries.sentence(key),
            "like": lambda: self._queries.like(key),
            "picture": lambda: self._queries.known_picture(session, key),
        }
        source = partial(self._queries.composed, session, kind, key, words) if words else sources[kind]
        updates = self._answer(session, settings.validated, cache(source), is_restored=True)
        return updates | self._set_controls(session, settings) | {self.layout.sentence: key if kind == "q" else words}

    def show(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Opens one of the hits in the detail view; ignores other rows."""
        page, hit = self.layout, _hit_of(session, event)
        if hit is None:
            return {page.detail: gr.skip()}
        session.shown = hit
        rank = session.settings.first_rank + session.hits.index(hit)
        try:
            large, maps = cards.large(hit, rank, self._pictures.large(hit.path)), cards.maps(None)
        except OSError as error:
            large, maps = cards.error(str(error)), ""
        shown = gr.update(visible=True)
        return {page.large: large, page.maps: maps, page.details: cards.details(hit), page.detail: shown}

    def look(self, session: Session) -> Any:
        """Computes the occlusion maps of the opened image."""
        hit, query = session.shown, session.query
        if hit is None or query is None:
            return gr.skip()
        try:
            found = cards.maps(self._pictures.maps(hit.path, query.vector))
        except OSError:
            found = ""
        return found if session.shown is hit else gr.skip()  # drops maps of a closed image

    def close(self, session: Session) -> Any:
        """Closes the detail view."""
        session.shown = None
        return gr.update(visible=False)

    def keep(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Adds a hit to the tray, with its search as metadata, or removes it."""
        hit, record = _hit_of(session, event), session.record
        if hit is not None and not event._data.get("kept"):
            session.tray.pop(hit.name, None)
        elif hit is not None and record is not None and len(session.tray) < _TRAY:
            search = {"search": record.query, "filter": " AND ".join(record.where), "searched": record.time}
            session.tray[hit.name] = replace(hit, metadata={**hit.metadata, **search})
        return self._tray(session)

    def drop(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Removes an image from the tray."""
        name = event._data.get("name") if isinstance(event._data, dict) else None
        if isinstance(name, str):
            session.tray.pop(name, None)
        return self._tray(session)

    def export(self, session: Session) -> dict[Any, Any]:
        """Writes the shown hits to a zip file."""
        return self._export(session.hits, session.record)

    def export_tray(self, session: Session) -> dict[Any, Any]:
        """Writes the kept images to a zip file; each names its search."""
        record = session.record and replace(session.record, query="kept images of several searches", where=[])
        return self._export(list(session.tray.values()), record)

    def _ask(
        self, session: Session, values: Sequence[Any], source: Callable[[], Query] | None, only_changes: bool = False
    ) -> dict[Any, Any]:
        return self._answer(session, lambda: Settings.checked(values, session.menus), source, only_changes)

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
            where = conditions(time_column(self._gallery), *settings.filters)
            beta = (self._gallery.manifest.clothing_weight or 1.0) * (1 - settings.changed / 100)
            wanted = settings.first_rank + settings.count  # one more than shown: is there a next page?
            search = query.vector, wanted, beta, where, query.digest, query.calibrated_as
            hits = self._gallery.search_vector(*search)
            if settings.page > 1 and len(hits) < settings.first_rank:
                raise ValueError(f"there are only {cards.images(len(hits))}, and none on page {settings.page}")
            record = self._gallery.record(query.title, where, beta, settings.count)
        except (ValueError, OSError) as error:
            return {self.layout.problem: cards.error(str(error))} if turn == session.turn else self._nothing
        if turn != session.turn:
            return self._nothing
        push = not is_restored and (
            session.query is None or _step(query, settings) != _step(session.query, session.settings)
        )
        session.answered, session.query, session.settings, session.shown = source, query, settings, None
        session.hits = hits[settings.first_rank - 1 : wanted - 1]
        session.record = replace(record, picture_sha256=query.digest)
        status = self._status(session, beta, [*filter(None, [absence_note(hits)]), *query.remarks, *notes])
        address = cards.place(to_address(query, settings), turn, push)
        return updates | self._found(session, address + status, len(hits) == wanted)

    def _found(self, session: Session, status: str, has_more: bool) -> dict[Any, Any]:
        page, settings, found = self.layout, session.settings, bool(session.hits)
        active = len(in_words(time_label(self._gallery), *settings.filters))
        return {
            page.problem: "",
            page.status: status,
            page.grid: self._grid(session) if found else cards.no_hits(),
            page.previous: gr.update(visible=settings.page > 1),
            page.next: gr.update(visible=has_more and settings.page < MOST_PAGES),
            page.export: gr.update(visible=found),
            page.detail: gr.update(visible=False),
            page.composed: gr.update(visible=session.query is not None and session.query.kind != "q"),
            page.filters: gr.update(label=f"Filters ({active} active)" if active else "Filters"),
        }

    def _status(self, session: Session, beta: float, notes: Sequence[str]) -> str:
        query, settings, count = session.query, session.settings, len(session.hits)
        assert query is not None
        first = settings.first_rank
        shown = cards.images(count) if first == 1 else f"hits {first} to {first + count - 1}"
        filters = in_words(time_label(self._gallery), *settings.filters)
        return cards.status(query.title, query.picture, shown, beta, filters, notes)

    def _grid(self, session: Session) -> str:
        settings, columns = session.settings, card_columns(self._gallery)
        return cards.grid(session.hits, self._pictures, settings.grouped, columns, settings.first_rank)

    def _tray(self, session: Session) -> dict[Any, Any]:
        kept = list(session.tray.values())
        return {
            self.layout.tray: cards.tray(kept, self._pictures),
            self.layout.export_tray: gr.update(visible=bool(kept)),
        }

    def _export(self, hits: Sequence[PersonHit], record: SearchRecord | None) -> dict[Any, Any]:
        page = self.layout
        if record is None or not hits:
            return {page.problem: cards.error("there are no hits to export: search first"), page.file: gr.skip()}
        folder = Path(tempfile.mkdtemp(dir=self.blocks.GRADIO_CACHE))
        return {page.problem: "", page.file: str(export_hits(hits, record, folder / "hits.zip"))}

    def _start(self, session: Session) -> dict[Any, Any]:
        """Returns the page before the first search; the tray stays."""
        page = self.layout
        session.turn += 1
        session.query = session.source = session.answered = session.asked = session.shown = session.record = None
        session.hits, session.settings = [], Settings()
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
        session.manifest, session.menus = manifest, tuple(menus(self._gallery))
        return [f"the index was updated: {cards.images(len(self._gallery))}"], self.layout.index_updates(self._gallery)

    def _set_controls(self, session: Session, settings: Settings) -> dict[Any, Any]:
        values = [settings.changed, settings.count, settings.grouped, settings.typed, settings.first, settings.last]
        chosen = [settings.chosen.get(column, []) for column in session.menus]
        return {
            control: gr.update(value=value)
            for control, value in zip(self.layout.controls, [*values, *chosen], strict=False)
        }

    @property
    def _nothing(self) -> dict[Any, Any]:
        return {self.layout.problem: gr.skip()}


def _hit_of(session: Session, event: gr.EventData) -> PersonHit | None:
    """Returns the hit of an event's row, or None for any other row."""
    row = event._data.get("row") if isinstance(event._data, dict) else None
    return next((hit for hit in session.hits if hit.row == row and not isinstance(row, bool)), None)


def _step(query: Query, settings: Settings) -> tuple[Any, ...]:
    """What makes a search a step in the history: everything but the slider."""
    return query.kind, query.key, query.words, replace(settings, changed=0)
