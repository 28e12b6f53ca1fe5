"""The demo page: its gradio components and their event handlers."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from numpy.typing import NDArray

from ...images import open_image
from ..gallery import PersonGallery, PersonHit
from ..hits_export import export_hits
from . import cards
from .filters import expression, menus, time_column
from .pictures import Pictures, small_picture

RESULTS = (12, 24, 48, 96)
_LONGEST_SENTENCE = 20_000  # characters; models read a few hundred
_SHOWN_SENTENCE = 200  # characters in the status line
_SEARCHES, _MAPS = 4, 1  # concurrent requests
# A click on a card triggers the event `open` with its row; page.js handles the keyboard.
_OPEN = """
element.addEventListener('click', (event) => {
    const card = event.target.closest('.card');
    if (card) trigger('open', {row: Number(card.dataset.row)});
});
"""
# The zip file exists when this runs, but the page renders its link a moment later.
_DOWNLOAD = "() => setTimeout(() => document.querySelector('#export-file')?.click(), 300)"


@dataclass(frozen=True)
class Query:
    """An embedded query, which is searched again when the clothing weight or a filter changes."""

    title: str  # the sentence, or a label of the picture
    vector: NDArray  # float32 [dimensions]
    remark: str | None = None  # a note about words that the model cannot read
    picture: str | None = None  # `data:` URL


@dataclass
class Session:
    """State of one browser window."""

    query: Query | None = None
    hits: list[PersonHit] = field(default_factory=list)
    shown: int | None = None  # row of the opened image


class SearchPage:
    """The search page of a gallery, for several concurrent users; `blocks` is the gradio app."""

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        self._pictures = Pictures(gallery)
        self._menus = menus(gallery)
        self._time = time_column(gallery)
        self._strongest = gallery.manifest.clothing_weight or 1.0  # β at the slider's left end
        self.blocks = self._build()

    def _build(self) -> gr.Blocks:
        gallery = self._gallery
        with gr.Blocks(title="Find people by a sentence", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            session = gr.State(Session())
            gr.HTML(cards.header(len(gallery), Path(gallery.manifest.model).name), elem_id="header")
            with gr.Row(elem_id="ask"):
                sentence = gr.Textbox(
                    placeholder="a woman in a red coat, short grey hair",
                    label="Description of the person",
                    container=False,
                    elem_id="sentence",
                    max_lines=3,
                    scale=6,
                    autofocus=True,
                )
                search = gr.Button("Search", variant="primary", scale=1, min_width=96, elem_id="search")
                picture = gr.UploadButton(
                    "Picture …", file_types=["image"], type="filepath", scale=1, min_width=96, elem_id="picture"
                )
            # page.css labels its ends "same clothes" and "may have changed clothes"
            changed = gr.Slider(0, 100, step=5, label="may have changed clothes, %", elem_id="clothes", buttons=[])
            with gr.Accordion("Filters", open=False, elem_id="filters"):
                with gr.Row():
                    chosen = [
                        gr.Dropdown(values, label=column, multiselect=True, min_width=160)
                        for column, values in self._menus.items()
                    ]
                with gr.Row(visible=self._time is not None):
                    first = gr.Textbox(label=f"{self._time} from", placeholder="2026-05-01", elem_id="from")
                    last = gr.Textbox(label=f"{self._time} to", placeholder="2026-05-31 18:00", elem_id="to")
                with gr.Row():
                    typed = gr.Textbox(
                        label="Expression",
                        placeholder=" and ".join(
                            f"{column} != '{values[0]}'" for column, values in list(self._menus.items())[:2]
                        ),
                        info="Columns: " + ", ".join(gallery.columns),
                        scale=3,
                        min_width=240,
                        elem_id="where",
                    )
                    count = gr.Dropdown(list(RESULTS), value=RESULTS[1], label="Images", min_width=96, elem_id="count")
                    grouped = gr.Checkbox(
                        label="Person by person",
                        visible="person_id" in gallery.columns,
                        min_width=160,
                        elem_id="grouped",
                    )
            status = gr.HTML(elem_id="status")
            grid = gr.HTML(cards.welcome(len(gallery)), js_on_load=_OPEN, elem_id="hits")
            with gr.Row():
                export = gr.Button("Export these images", size="sm", visible=False, elem_id="export")
            file = gr.DownloadButton(visible="hidden", elem_id="export-file")
            with gr.Column(visible=False, elem_id="detail") as detail:
                with gr.Row(elem_id="detail-buttons"):
                    close = gr.Button("Close", size="sm", elem_id="close", min_width=72)
                    like = gr.Button("More like this", size="sm", variant="primary", elem_id="like", min_width=72)
                large, maps, details = gr.HTML(), gr.HTML(), gr.HTML()

            controls: list[Any] = [changed, count, grouped, typed, first, last, *chosen]
            found: list[Any] = [status, grid, export, detail]

            def on(event: Callable[..., Any], work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
                is_map = work == self.look
                return event(
                    work,
                    [session, *inputs],
                    outputs,
                    api_visibility="private",
                    show_progress="hidden" if is_map else "minimal",
                    concurrency_id="maps" if is_map else "searches",
                    concurrency_limit=_MAPS if is_map else _SEARCHES,
                )

            for event in (search.click, sentence.submit):
                on(event, self.ask, [sentence, *controls], found)
            on(picture.upload, self.ask_picture, [picture, *controls], found)
            for event in (typed.submit, *(control.change for control in controls if control is not typed)):
                on(event, self.refine, controls, found)
            on(like.click, self.more_like, controls, found)
            opened = on(grid.open, self.show, [], [large, maps, details, detail])
            on(opened.then, self.look, [], [maps])
            on(close.click, self.close, [], [detail])
            on(export.click, self.export, [], [status, file]).success(None, None, None, js=_DOWNLOAD)
        return blocks

    def ask(self, session: Session, sentence: str, *values: Any) -> list[Any]:
        """Handles a search by sentence."""
        return self._answer(session, values, lambda: self._sentence(sentence or ""))

    def ask_picture(self, session: Session, file: str, *values: Any) -> list[Any]:
        """Handles a search by an uploaded picture."""
        return self._answer(session, values, lambda: self._picture(file))

    def refine(self, session: Session, *values: Any) -> list[Any]:
        """Repeats the last query with the current slider and filters."""
        return self._answer(session, values, lambda: session.query)

    def more_like(self, session: Session, *values: Any) -> list[Any]:
        """Handles a search by the opened image."""
        row = session.shown
        if row is None:
            return [gr.skip()] * 4
        return self._answer(
            session,
            values,
            lambda: Query("like this image", self._gallery.vector(row), picture=self._pictures.thumbnail(row)),
        )

    def show(self, session: Session, event: gr.EventData) -> list[Any]:
        """Opens one of the hits in the detail view; ignores other rows."""
        row = event._data.get("row") if isinstance(event._data, dict) else None
        ranks = {hit.row: rank for rank, hit in enumerate(session.hits, start=1)}
        if row not in ranks:
            return [gr.skip()] * 4
        session.shown, hit = row, session.hits[ranks[row] - 1]
        try:
            large, maps = cards.large(hit, ranks[row], self._pictures.large(row)), cards.maps(None)
        except OSError as error:
            large, maps = cards.error(str(error)), ""
        return [large, maps, cards.details(hit), gr.update(visible=True)]

    def look(self, session: Session) -> Any:
        """Computes the occlusion maps of the opened image."""
        row, query = session.shown, session.query
        if row is None or query is None:
            return gr.skip()
        try:
            found = cards.maps(self._pictures.maps(row, query.vector))
        except OSError:
            found = ""
        return found if session.shown == row else gr.skip()  # drops maps of a closed image

    def close(self, session: Session) -> Any:
        """Closes the detail view."""
        session.shown = None
        return gr.update(visible=False)

    def export(self, session: Session) -> list[Any]:
        """Writes the hits to a zip file."""
        folder = Path(tempfile.mkdtemp(dir=self.blocks.GRADIO_CACHE))
        title = session.query.title if session.query else ""
        return [gr.skip(), str(export_hits(session.hits, title, folder / "hits.zip"))]

    def _answer(self, session: Session, values: Sequence[Any], asked: Callable[[], Query | None]) -> list[Any]:
        """Searches and returns the updated page; an error is shown above the hits of the last search."""
        try:
            # Validate all values, since a client can send anything
            changed, count, grouped, typed, first, last, *chosen = values
            if not isinstance(changed, int | float) or not 0 <= changed <= 100:
                raise ValueError("the slider goes from 0 to 100")
            if count not in RESULTS:
                raise ValueError(f"show {', '.join(map(str, RESULTS))} images")
            query = asked()
            if query is None:
                return [gr.skip()] * 4
            menu_values = {column: menu or () for column, menu in zip(self._menus, chosen, strict=True)}
            where = expression(menu_values, self._time, first, last, typed or "")
            beta = self._strongest * (1 - changed / 100)
            hits = self._gallery.search_vector(query.vector, count, beta, where)
        except (ValueError, OSError) as error:
            return [cards.error(str(error)), gr.skip(), gr.skip(), gr.skip()]
        session.query, session.hits, session.shown = query, hits, None
        page = cards.grid(hits, self._pictures, bool(grouped)) if hits else cards.no_hits(where)
        line = cards.status(query.title, query.picture, len(hits), beta, query.remark)
        return [line, page, gr.update(visible=bool(hits)), gr.update(visible=False)]

    def _sentence(self, sentence: str) -> Query:
        if len(sentence) > _LONGEST_SENTENCE:
            raise ValueError(f"the sentence has {len(sentence)} characters; the limit is {_LONGEST_SENTENCE}")
        vector = self._gallery.embedder.embed_sentence(sentence)
        shown = sentence if len(sentence) <= _SHOWN_SENTENCE else sentence[:_SHOWN_SENTENCE] + "…"
        return Query(shown, vector, self._gallery.remark(sentence))

    def _picture(self, file: str) -> Query:
        try:
            image = open_image(file)
        except OSError as error:
            raise ValueError(f"the picture: {str(error).removeprefix(f'{file}: ')}") from None
        return Query("like this picture", self._gallery.embedder.embed_image(image), picture=small_picture(image))
