"""The kept images of the demo page, and the exports."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ..hits import PersonHit
from ..hits_export import export_hits
from ..search_record import SearchRecord
from . import cards
from .layout import Layout
from .pictures import Pictures
from .session import Session, sent

_MOST = 200  # kept images of one window


class Tray:
    """Event handlers of the kept images and the exports; each returns the updates of the components that change."""

    def __init__(self, layout: Layout, pictures: Pictures, folder: str) -> None:
        self._layout, self._pictures, self._folder = layout, pictures, folder

    def keep(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Adds a hit to the tray, with its search as metadata, or removes it."""
        hit, record = session.sent_hit(event), session.record
        if hit is not None and not sent(event, "kept"):
            session.tray.pop(hit.name, None)
        elif hit is not None and record is not None and len(session.tray) < _MOST:
            search = {"search": record.query, "filter": " AND ".join(record.where), "searched": record.time}
            session.tray[hit.name] = replace(hit, metadata={**hit.metadata, **search})
        return self._shown(session)

    def drop(self, session: Session, event: gr.EventData) -> dict[Any, Any]:
        """Removes an image from the tray."""
        name = sent(event, "name")
        if isinstance(name, str):
            session.tray.pop(name, None)
        return self._shown(session)

    def export(self, session: Session) -> dict[Any, Any]:
        """Writes the shown hits to a zip file, with their marks."""
        words = {True: "right", False: "wrong"}
        hits = [
            replace(hit, metadata={**hit.metadata, "mark": words[session.marks[hit.name]]})
            if hit.name in session.marks
            else hit
            for hit in session.hits
        ]
        return self._export(hits, session.record)

    def export_kept(self, session: Session) -> dict[Any, Any]:
        """Writes the kept images to a zip file; each names its search."""
        record = session.record and replace(
            session.record, query="kept images of several searches", where=[], right=[], wrong=[], rerank=0
        )
        return self._export(list(session.tray.values()), record)

    def _shown(self, session: Session) -> dict[Any, Any]:
        kept = list(session.tray.values())
        return {
            self._layout.tray: cards.tray(kept, self._pictures),
            self._layout.export_tray: gr.update(visible=bool(kept)),
        }

    def _export(self, hits: Sequence[PersonHit], record: SearchRecord | None) -> dict[Any, Any]:
        page = self._layout
        if record is None or not hits:
            return {page.problem: cards.error("there are no hits to export: search first"), page.file: gr.skip()}
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return {page.problem: "", page.file: str(export_hits(hits, record, folder / "hits.zip"))}
