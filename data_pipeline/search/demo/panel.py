"""The detail panel of the demo page: an opened hit, its occlusion maps, and the frame or video that it is from."""

from typing import Any

import gradio as gr

from . import cards
from .layout import Layout
from .pictures import Pictures
from .session import Session
from .sources import Sources


class Panel:
    """Event handlers of the detail panel; each returns the updates of the components that change."""

    def __init__(self, layout: Layout, pictures: Pictures) -> None:
        self._layout, self._pictures = layout, pictures
        self.sources = Sources()

    def show(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Opens one of the hits in the detail view; ignores other rows."""
        page, hit = self._layout, session.sent_hit(event)
        if hit is None:
            return {page.detail: gr.skip()}
        session.shown = hit
        rank = session.settings.first_rank + session.hits.index(hit)
        try:
            large, maps = cards.large(hit, rank, self._pictures.large(hit.path)), cards.maps(None)
        except OSError as error:
            large, maps = cards.error(str(error)), ""
        shown = {page.large: large, page.maps: maps, page.source: "", page.details: cards.details(hit)}
        return {**shown, page.detail: gr.update(visible=True)}

    def find_source(self, session: Session) -> Any:
        """Reads the frame that the opened image was cropped from."""
        hit = session.shown
        if hit is None:
            return gr.skip()
        found = cards.source(self.sources.of(hit))
        return found if session.shown is hit else gr.skip()  # drops the frame of a closed image

    def look(self, session: Session) -> Any:
        """Computes the occlusion maps of the opened image."""
        hit, query = session.shown, session.query
        if hit is None or query is None:
            return gr.skip()
        try:
            found = cards.maps(self._pictures.maps(hit.path, query.vector))
        except OSError:
            found = ""
        return found if session.shown is hit else gr.skip()

    def close(self, session: Session) -> Any:
        """Closes the detail view."""
        session.shown = None
        return gr.update(visible=False)
