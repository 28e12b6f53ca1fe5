"""The components of the demo page and their arrangement, without event handlers."""

from pathlib import Path
from typing import Any

import gradio as gr

from ..gallery import PersonGallery
from . import cards
from .filters import MENUS, RANGES, example, menus, ranges, time_label
from .session import COMPARED, RESULTS

# gradio's HTML components trigger events from their content; page.js handles the keyboard, the focus and the history.
_GRID_EVENTS = """
element.addEventListener('click', (event) => {
    const card = event.target.closest('.card');
    if (card) trigger('open', {row: Number(card.dataset.row)});
    const mark = event.target.closest('.mark');
    const isSet = mark?.getAttribute('aria-pressed') === 'true';
    if (mark) trigger('mark', {row: Number(mark.dataset.row), mark: isSet ? '' : mark.dataset.mark});
});
element.addEventListener('change', (event) => {
    const box = event.target.closest('.keep input');
    if (box) trigger('keep', {row: Number(box.dataset.row), kept: box.checked});
});
const restore = () => trigger('restore', {address: location.search});
addEventListener('popstate', restore);
if (location.search) restore();
"""
_STATUS_EVENTS = """
element.addEventListener('click', (event) => {
    if (event.target.closest('.clear')) trigger('clear');
    if (event.target.closest('.back')) history.back();
});
"""
_MARKS_EVENTS = """
element.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (button) trigger(button.name);
});
"""
_TRAY_EVENTS = """
element.addEventListener('click', (event) => {
    const dropped = event.target.closest('.drop');
    if (dropped) trigger('drop', {name: dropped.dataset.name});
});
"""
# A value is that of two inputs. Typing a year changes a day four times (0002, 0020, 0202, 2026): the event waits.
_MOMENT = """
<label>${label}<input type='date' min='1000-01-01' max='9999-12-30' value='${(value || '').slice(0, 10)}'></label>
<input type='time' aria-label='${label}, time' title='time, optional' value='${(value || '').slice(11)}'>
"""
_RANGE = """
<label>${label}<input type='number' step='any' placeholder='from' aria-label='${label}, from'
    value='${(value || '').split('..')[0]}'></label>
<input type='number' step='any' placeholder='to' aria-label='${label}, to'
    value='${(value || '').split('..')[1] || ''}'>
"""
_PAIR_EVENTS = """
let waiting;
element.addEventListener('change', () => {
    const [first, second] = [...element.querySelectorAll('input')].map((input) => input.value);
    const isTime = Boolean(element.querySelector('input[type=time]'));
    clearTimeout(waiting);
    if (isTime && first && first < '1000') return;
    waiting = setTimeout(() => {
        const moment = first && second ? first + 'T' + second : first;
        const range = first || second ? first + '..' + second : '';
        const value = isTime ? moment : range;
        if (value === (props.value || '')) return;
        props.value = value;
        trigger('change');
    }, 600);
});
"""


_WORDS = ("from", "to")
_HERE = Path(__file__).parent


class Layout:
    """The components of the page; create it within `gr.Blocks`."""

    def __init__(self, gallery: PersonGallery) -> None:
        header, first, last, typed, grouped, *slots = _index_facts(gallery)
        bounds, lists = slots[:RANGES], slots[RANGES:]
        self.header = gr.HTML(elem_id="header", **header)
        with gr.Row(elem_id="ask"):
            self.sentence = gr.Textbox(
                placeholder="a woman in a red coat, short grey hair",
                label="Description of the person",
                container=False,
                elem_id="sentence",
                max_lines=3,
                scale=6,
                autofocus=True,
            )
            self.search = gr.Button("Search", variant="primary", scale=1, min_width=96, elem_id="search")
            self.picture = gr.UploadButton(
                "Picture …", file_types=["image"], type="filepath", scale=1, min_width=96, elem_id="picture"
            )
        self.composed = gr.Checkbox(
            label="Person of the picture, in the clothes of the sentence", visible=False, elem_id="composed"
        )
        self.in_detail = gr.Checkbox(
            label=f"Compare in detail: orders the first {COMPARED} images again, slower",
            visible=gallery.embedder.model.matching is not None,
            elem_id="in-detail",
        )
        # page.css labels its ends "same clothes" and "changed clothes"
        self.changed = gr.Slider(0, 100, step=5, label="Clothes may have changed, %", elem_id="clothes", buttons=[])
        with gr.Accordion("Filters", open=False, elem_id="filters") as self.filters:
            with gr.Row():
                self.menus = [gr.Dropdown(multiselect=True, min_width=160, **slot) for slot in lists]
            pair: dict[str, Any] = {"value": "", "js_on_load": _PAIR_EVENTS, "elem_classes": "pair"}
            with gr.Row(elem_id="times"):
                self.first = gr.HTML(elem_id="from", html_template=_MOMENT, **pair, **first)
                self.last = gr.HTML(elem_id="to", html_template=_MOMENT, **pair, **last)
            with gr.Row(elem_id="bounds"):
                self.bounds = [gr.HTML(html_template=_RANGE, **pair, **slot) for slot in bounds]
            with gr.Row():
                self.typed = gr.Textbox(label="Expression", scale=3, min_width=240, elem_id="where", **typed)
                self.count = gr.Dropdown(
                    list(RESULTS), value=RESULTS[1], label="Images on a page", min_width=96, elem_id="count"
                )
                self.grouped = gr.Checkbox(label="Person by person", min_width=160, elem_id="grouped", **grouped)
        self.problem = gr.HTML(elem_id="problem")
        self.status = gr.HTML(js_on_load=_STATUS_EVENTS, elem_id="status")
        gr.HTML("<p id='busy' role='status'></p>", elem_id="running")
        self.marks = gr.HTML(js_on_load=_MARKS_EVENTS, elem_id="marks")
        self.grid = gr.HTML(cards.welcome(len(gallery)), js_on_load=_GRID_EVENTS, elem_id="hits")
        with gr.Row(elem_id="below"):
            self.previous = gr.Button("← Page before", size="sm", visible=False, elem_id="previous")
            self.next = gr.Button("Next page →", size="sm", visible=False, elem_id="next")
            self.export = gr.Button("Export these images", size="sm", visible=False, elem_id="export")
        self.tray = gr.HTML(js_on_load=_TRAY_EVENTS, elem_id="tray")
        self.export_tray = gr.Button("Export the kept images", size="sm", visible=False, elem_id="export-tray")
        with gr.Accordion("Saved searches", open=False, elem_id="saved"):
            gr.HTML(cards.saved(gallery.index), js_on_load=(_HERE / "saved.js").read_text(encoding="utf-8"))
        self.file = gr.DownloadButton(visible="hidden", elem_id="export-file")
        with gr.Column(visible=False, elem_id="detail") as self.detail:
            with gr.Row(elem_id="detail-buttons"):
                self.close = gr.Button("Close", size="sm", elem_id="close", min_width=72)
                self.like = gr.Button("More like this", size="sm", variant="primary", elem_id="like", min_width=72)
            self.large, self.source, self.maps, self.details = gr.HTML(), gr.HTML(), gr.HTML(), gr.HTML()
        filters = [self.typed, self.first, self.last, *self.bounds, *self.menus]
        self.controls: list[Any] = [self.changed, self.count, self.grouped, self.in_detail, *filters]
        self._of_index = [self.header, self.first, self.last, self.typed, self.grouped, *self.bounds, *self.menus]

    def index_updates(self, gallery: PersonGallery) -> dict[Any, Any]:
        """Returns the updates of the components that depend on the index, after a new one was published."""
        facts = _index_facts(gallery)
        return {component: gr.update(**given) for component, given in zip(self._of_index, facts, strict=True)}


def _index_facts(gallery: PersonGallery) -> list[dict[str, Any]]:
    """Returns the arguments of header, first and last time, expression, grouping, bounds and menus."""
    lists, time = menus(gallery), time_label(gallery)
    numbers = ranges(gallery, lists)
    slots = [*lists.items(), *[("", [])] * (MENUS - len(lists))]
    bounds = [f"{name} ({low:g} to {high:g})" for name, (low, high) in numbers.items()]
    bounds += [""] * (RANGES - len(bounds))
    return [
        {"value": cards.header(len(gallery), Path(gallery.manifest.model).name)},
        *({"label": cards.text(f"{time} {word}"), "visible": bool(time)} for word in _WORDS),
        {"placeholder": example(gallery), "info": "Columns: " + ", ".join([*gallery.columns, *gallery.fields])},
        {"visible": "person_id" in gallery.columns},
        *({"label": cards.text(label), "visible": bool(label)} for label in bounds),
        *({"choices": values, "label": column, "visible": bool(column)} for column, values in slots),
    ]
