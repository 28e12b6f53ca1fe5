"""Serving the demo: on loopback unless told otherwise, with bounds on what is sent, and no file but the page's own."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..gallery import PersonGallery
from .page import SearchPage

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
LARGEST_UPLOAD = 10  # MB
_MOST_WAITING = 200  # requests
_HERE = Path(__file__).parent
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # none is fetched


class Guard:
    """Refuses requests that are too large, and on loopback those under another name than loopback's.

    The latter come from pages of other sites whose name was made to point here.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, largest: int) -> None:
        self._app, self._hosts, self._largest = app, hosts, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        length = headers.get("content-length", "0")
        if self._hosts is not None and host not in self._hosts:
            await PlainTextResponse("this demo answers on loopback alone\n", 403)(scope, receive, send)
        elif not length.isdecimal() or int(length) > self._largest:
            await PlainTextResponse(f"more than {LARGEST_UPLOAD} MB\n", 413)(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """As if the sender had gone, once it has sent too much without saying so."""
        taken = 0

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= self._largest else {"type": "http.disconnect"}

        return count


@contextmanager
def serve_demo(
    gallery: PersonGallery, port: int = 0, auth: tuple[str, str] | None = None, allow_remote: bool = False
) -> Iterator[str]:
    """Serves the page of a gallery until the context ends; gives its address.

    Args:
        port: of TCP; 0 for a free one.
        auth: user and password that the page asks for.
        allow_remote: answer other machines as well, for which there must be a password.

    Raises:
        ValueError: other machines without a password.
        OSError: the port is taken.
    """
    if allow_remote and auth is None:
        raise ValueError("other machines would see these people without a password: give --auth USER:PASSWORD as well")
    with tempfile.TemporaryDirectory(prefix="bdam-demo-") as folder:
        # All that gradio gives out by a path lies in this folder: pictures that were sent, and exports.
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = SearchPage(gallery).blocks
        page.queue(max_size=_MOST_WAITING)
        hosts = None if allow_remote else ("127.0.0.1", "localhost", "[::1]")
        guard = Middleware(Guard, hosts=hosts, largest=(LARGEST_UPLOAD + 1) * 10**6)
        try:
            _, address, _ = page.launch(
                server_name=EVERYWHERE if allow_remote else LOOPBACK,
                server_port=port or _free_port(),
                auth=auth,
                theme=gr.themes.Default(font=_SYSTEM_FONTS, font_mono=["monospace"], primary_hue="blue"),
                css_paths=_HERE / "page.css",
                js=(_HERE / "page.js").read_text(encoding="utf-8"),
                max_file_size=f"{LARGEST_UPLOAD}mb",
                app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None, "openapi_url": None},
                footer_links=[],
                share=False,
                ssr_mode=False,
                enable_monitoring=False,
                mcp_server=False,
                pwa=False,
                run_history=False,
                prevent_thread_lock=True,
                quiet=True,
            )
            yield address
        finally:
            page.close(verbose=False)
            del os.environ["GRADIO_TEMP_DIR"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
