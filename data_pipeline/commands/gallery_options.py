"""Options, error output, log settings and waiting of the commands of a gallery."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from modeling_bdam.files import install_command

from .errors import one_line_errors

IndexFolder = Annotated[Path, typer.Option(help="Folder of the index.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Device = Annotated[str | None, typer.Option(help="Device of the model: cpu, cuda, ...", show_default="the best")]
Model = Annotated[str | None, typer.Option(help="The model, if it was moved since the index was built.")]

_EXTRAS = {
    "faiss": "search",
    "duckdb": "search",
    "av": "video",
    "gradio": "demo",
    "fastapi": "serve",
    "uvicorn": "serve",
}


@contextmanager
def gallery_errors() -> Iterator[None]:
    """Prints errors of input and files, and a missing extra, as one line."""
    with one_line_errors():
        try:
            yield
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(error.name or "")
            if extra is None:
                raise
            raise ValueError(f"{error.name} is not installed: {install_command(extra)}") from None


def quiet_transformers() -> None:
    """Disables the progress bars and warnings of transformers; a search of a sentence does not import it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:  # it reads the variables when it is imported
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()


def wait_for_end() -> None:
    """Waits for Ctrl-C or SIGTERM, so that a server can delete its temporary files."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
