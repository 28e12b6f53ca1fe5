"""Serves the demo: on loopback by default, with limits on request sizes, and without access to other files."""

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
_QUEUE_SIZE = 200  # requests
_HERE = Path(__file__).parent
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no font is downloaded


class Guard:
    """ASGI middleware that checks the Host header (DNS rebinding) and the size of each request.

    Args:
        app: the app behind it.
        hosts: accepted values of the Host header, without the port; None for any. A page of another site cannot read
            this server's answers by a domain name that resolves to loopback, because the browser sends that name.
        largest: size limit of a request body in bytes.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, largest: int) -> None:
        self._app, self._hosts, self._largest = app, hosts, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or answers it with 403 (Host header) or 413 (size)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        length = headers.get("content-length", "0")
        if self._hosts is not None and host not in self._hosts:
            await PlainTextResponse("this demo accepts requests to loopback only\n", 403)(scope, receive, send)
        elif not length.isdecimal() or int(length) > self._largest:
            await PlainTextResponse(f"more than {LARGEST_UPLOAD} MB\n", 413)(scope, receive, send)
        else:
            await self._app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        """Wraps `receive` to disconnect above the size limit, for a chunked body without a Content-Length header."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= self._largest else {"type": "http.disconnect"}

        return limited


@contextmanager
def serve_demo(
    gallery: PersonGallery, port: int = 0, auth: tuple[str, str] | None = None, allow_remote: bool = False
) -> Iterator[str]:
    """Serves the search page of a gallery until the context ends; yields its address.

    Args:
        port: TCP port; 0 for a free one.
        auth: user and password of the login.
        allow_remote: accept connections from other machines; requires `auth`.

    Raises:
        ValueError: `allow_remote` without `auth`.
        OSError: the port is in use.
    """
    if allow_remote and auth is None:
        raise ValueError("remote access to personal images requires a password: give --auth USER:PASSWORD as well")
    with tempfile.TemporaryDirectory(prefix="bdam-demo-") as folder:
        # gradio serves files only from this folder: uploads and exports
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = SearchPage(gallery).blocks
        page.queue(max_size=_QUEUE_SIZE)
        hosts = None if allow_remote else ("127.0.0.1", "localhost", "[::1]")
        guard = Middleware(Guard, hosts=hosts, largest=(LARGEST_UPLOAD + 1) * 10**6)
        # No share link, analytics, API documentation or server-side rendering
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
