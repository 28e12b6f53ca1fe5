"""The demo's page: what stands where, and what happens when somebody uses it."""

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
from .filters import Menu, expression, menus, time_column
from .pictures import Pictures, small_picture

RESULTS = (12, 24, 48, 96)
_LONGEST_SENTENCE = 20_000  # characters; models read a few hundred
_SHOWN_SENTENCE = 200  # characters of the sentence above the hits
_SEARCHES, _MAPS = 4, 1  # at once
# Cards tell their row when they are opened; the rest of the keyboard is in page.js.
_OPEN = """
element.addEventListener('click', (event) => {
    const card = event.target.closest('.card');
    if (card) trigger('open', {row: Number(card.dataset.row)});
});
"""
# The file is there when this runs; its link is drawn soon after.
_DOWNLOAD = "() => setTimeout(() => document.querySelector('#export-file')?.click(), 300)"


@dataclass(frozen=True)
class Query:
    """What was asked for; it is searched again for another clothing weight or filter.

    Attributes:
        title: in words.
        vector: float32 [dimensions].
        remark: what the model could not read.
        picture: what was asked for as a picture, or None.
    """

    title: str
    vector: NDArray
    remark: str | None = None
    picture: str | None = None


@dataclass
class Session:
    """What one browser window has on its screen."""

    query: Query | None = None
    hits: list[PersonHit] = field(default_factory=list)
    shown: int | None = None  # row


@dataclass(frozen=True)
class Controls:
    """The state of slider, menus and the rest, in the order in which gradio hands it over."""

    changed: float  # how likely the clothes were changed, 0 to 100
    count: int
    grouped: bool
    typed: str
    first: str | None
    last: str | None
    chosen: tuple[Sequence[str], ...]

    @classmethod
    def read(cls, values: Sequence[Any]) -> "Controls":
        """From the values of the components, which anybody can send.

        Raises:
            ValueError: one of them makes no sense.
        """
        changed, count, grouped, typed, first, last, *chosen = values
        if not isinstance(changed, int | float) or not 0 <= changed <= 100:
            raise ValueError("the slider goes from 0 to 100")
        if count not in RESULTS:
            raise ValueError(f"show {', '.join(map(str, RESULTS))} images")
        return cls(changed, count, bool(grouped), typed or "", first, last, tuple(each or () for each in chosen))


class SearchPage:
    """The page over one gallery; many people may use it at once.

    `blocks` is gradio's.
    """

    def __init__(self, gallery: PersonGallery) -> None:
        self._gallery = gallery
        self._pictures = Pictures(gallery)
        self._menus: list[Menu] = menus(gallery)
        self._time = time_column(gallery)
        self._strongest = gallery.manifest.clothing_weight or 1.0  # β at the slider's end for the same clothes
        self.blocks = self._build()

    def _build(self) -> gr.Blocks:
        gallery = self._gallery
        with gr.Blocks(title="Find people by a sentence", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            session = gr.State(Session())
            gr.HTML(cards.header(len(gallery), Path(gallery.manifest.model).name), elem_id="header")
            with gr.Row(elem_id="ask"):
                sentence = gr.Textbox(
                    placeholder="a woman in a red coat, short grey hair",
                    label="What the person looks like",
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
            # page.css writes "same clothes" and "may have changed clothes" at its ends.
            changed = gr.Slider(0, 100, step=5, label="may have changed clothes, %", elem_id="clothes", buttons=[])
            with gr.Accordion("Filters", open=False, elem_id="filters"):
                chosen = self._menu_row()
                first, last = self._time_row()
                with gr.Row():
                    typed = gr.Textbox(
                        label="Expression",
                        placeholder=" and ".join(f"{menu.column} != '{menu.values[0]}'" for menu in self._menus[:2]),
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
                large, maps, known = gr.HTML(), gr.HTML(), gr.HTML()

            controls: list[Any] = [changed, count, grouped, typed, first, last, *chosen]
            found: list[Any] = [status, grid, export, detail]

            def on(event: Callable[..., Any], work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
                return event(
                    work,
                    [session, *inputs],
                    outputs,
                    api_visibility="private",
                    show_progress="minimal",
                    concurrency_id="searches",
                    concurrency_limit=_SEARCHES,
                )

            for event in (search.click, sentence.submit):
                on(event, self.ask, [sentence, *controls], found)
            on(picture.upload, self.ask_picture, [picture, *controls], found)
            for event in (typed.submit, *(control.change for control in controls if control is not typed)):
                on(event, self.refine, controls, found)
            on(like.click, self.more_like, controls, found)
            looked = on(grid.open, self.show, [], [large, maps, known, detail])
            looked.then(
                self.look,
                [session],
                [maps],
                api_visibility="private",
                show_progress="hidden",
                concurrency_id="maps",
                concurrency_limit=_MAPS,
            )
            on(close.click, self.close, [], [detail])
            written = on(export.click, self.export, [], [status, file])
            written.success(None, None, None, js=_DOWNLOAD)
        return blocks

    def _menu_row(self) -> list[gr.Dropdown]:
        with gr.Row():
            return [
                gr.Dropdown(menu.values, multiselect=True, label=menu.column, min_width=160, elem_classes="menu")
                for menu in self._menus
            ]

    def _time_row(self) -> tuple[gr.Textbox, gr.Textbox]:
        with gr.Row(visible=self._time is not None):
            first = gr.Textbox(label=f"{self._time} from", placeholder="2026-05-01", elem_id="from")
            last = gr.Textbox(label=f"{self._time} to", placeholder="2026-05-31 18:00", elem_id="to")
        return first, last

    def ask(self, session: Session, sentence: str, *values: Any) -> list[Any]:
        """Searches for a sentence."""
        return self._answer(session, values, lambda: self._sentence(sentence or ""))

    def ask_picture(self, session: Session, file: str, *values: Any) -> list[Any]:
        """Searches for a picture that was sent."""
        return self._answer(session, values, lambda: self._picture(file))

    def refine(self, session: Session, *values: Any) -> list[Any]:
        """Searches again, as slider and filters are now."""
        return self._answer(session, values, lambda: session.query)

    def more_like(self, session: Session, *values: Any) -> list[Any]:
        """Searches for what looks like the image that is shown large."""
        return self._answer(session, values, lambda: self._shown(session))

    def show(self, session: Session, event: gr.EventData) -> list[Any]:
        """Shows one of the hits large."""
        row = event._data.get("row") if isinstance(event._data, dict) else None
        ranks = {hit.row: rank for rank, hit in enumerate(session.hits, start=1)}
        if row not in ranks:
            return [gr.skip()] * 4
        session.shown, hit = row, session.hits[ranks[row] - 1]
        try:
            picture, looking = self._pictures.large(row), cards.maps(None)
        except OSError as error:
            return [cards.error(str(error)), "", cards.known(hit), gr.update(visible=True)]
        return [cards.large(hit, ranks[row], picture), looking, cards.known(hit), gr.update(visible=True)]

    def look(self, session: Session) -> Any:
        """Finds where in the image that is shown large the query fits."""
        row, query = session.shown, session.query
        if row is None or query is None:
            return gr.skip()
        try:
            found = cards.maps(self._pictures.maps(row, query.vector))
        except OSError:
            found = ""
        return found if session.shown == row else gr.skip()  # another image was opened meanwhile

    def close(self, session: Session) -> Any:
        """Puts the large image away."""
        session.shown = None
        return gr.update(visible=False)

    def export(self, session: Session) -> list[Any]:
        """Writes the hits into a zip file."""
        folder = Path(tempfile.mkdtemp(dir=self.blocks.GRADIO_CACHE))
        title = session.query.title if session.query else ""
        return [gr.skip(), str(export_hits(session.hits, title, folder / "hits.zip"))]

    def _answer(self, session: Session, values: Sequence[Any], asked: Callable[[], Query | None]) -> list[Any]:
        """The page after a search; where that goes wrong it says so, above the hits of the last one."""
        try:
            controls = Controls.read(values)
            query = asked()
            if query is None:
                return [gr.skip()] * 4
            where = self._where(controls)
            beta = self._strongest * (1 - controls.changed / 100)
            hits = self._gallery.search_vector(query.vector, controls.count, beta, where)
        except (ValueError, OSError) as error:
            return [cards.error(str(error)), gr.skip(), gr.skip(), gr.skip()]
        session.query, session.hits, session.shown = query, hits, None
        page = cards.grid(hits, self._pictures, controls.grouped) if hits else cards.nothing(where)
        line = cards.status(query.title, query.picture, len(hits), beta, query.remark)
        return [line, page, gr.update(visible=bool(hits)), gr.update(visible=False)]

    def _where(self, controls: Controls) -> str:
        chosen = {menu.column: values for menu, values in zip(self._menus, controls.chosen, strict=True)}
        return expression(chosen, self._time, controls.first, controls.last, controls.typed)

    def _sentence(self, sentence: str) -> Query:
        if len(sentence) > _LONGEST_SENTENCE:
            raise ValueError(f"the sentence has {len(sentence)} characters; {_LONGEST_SENTENCE} is the most")
        vector = self._gallery.embedder.embed_sentence(sentence)
        shown = sentence if len(sentence) <= _SHOWN_SENTENCE else sentence[:_SHOWN_SENTENCE] + "…"
        return Query(shown, vector, self._gallery.remark(sentence))

    def _picture(self, file: str) -> Query:
        try:
            image = open_image(file)
        except OSError as error:
            raise ValueError(f"the picture: {str(error).removeprefix(f'{file}: ')}") from None
        return Query("like this picture", self._gallery.embedder.embed_image(image), picture=small_picture(image))

    def _shown(self, session: Session) -> Query | None:
        if session.shown is None:
            return None
        row = session.shown
        return Query("like this image", self._gallery.vector(row), picture=self._pictures.thumbnail(row))
