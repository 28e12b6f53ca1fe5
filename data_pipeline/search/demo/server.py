"""Serves the demo: on loopback by default, with limits on request sizes, and without access to other files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from ..gallery import PersonGallery
from ..serve.addresses import EVERYWHERE, LOOPBACK, accepted_hosts, bound_socket
from ..serve.guard import LARGEST_UPLOAD, Guard
from .page import SearchPage

_QUEUE_SIZE = 200  # requests
_HERE = Path(__file__).parent
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no font is downloaded


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
        OSError: the port is in use or reserved.
    """
    if allow_remote and auth is None:
        raise ValueError("remote access to personal images requires a password: give --auth USER:PASSWORD as well")
    host = EVERYWHERE if allow_remote else LOOPBACK
    with bound_socket(host, port) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bdam-demo-") as folder:
        # gradio serves files only from this folder: uploads and exports
        os.environ["GRADIO_TEMP_DIR"] = folder
        search = SearchPage(gallery)
        page, routes = search.blocks, [search.panel.sources.route]
        page.queue(max_size=_QUEUE_SIZE)
        guard = Middleware(Guard, hosts=accepted_hosts(host))
        # No share link, analytics, API documentation or server-side rendering
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                auth=auth,
                theme=_theme(),
                css_paths=_HERE / "page.css",
                js=(_HERE / "page.js").read_text(encoding="utf-8"),
                max_file_size=f"{LARGEST_UPLOAD}mb",
                app_kwargs={
                    "middleware": [guard],
                    "routes": routes,
                    **dict.fromkeys(("docs_url", "redoc_url", "openapi_url")),
                },
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


def _theme() -> gr.themes.Base:
    """Returns gradio's theme with a contrast of at least 4.5 for all text (WCAG 2 AA) and fonts of the system."""
    theme = gr.themes.Default(font=_SYSTEM_FONTS, font_mono=["monospace"], primary_hue="blue")
    quiet = {"block_info_text_color": "*neutral_600", "input_placeholder_color": "*neutral_500"}
    quiet_dark = {"block_info_text_color_dark": "*neutral_300", "input_placeholder_color_dark": "*neutral_400"}
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        **quiet,
        **quiet_dark,
    )
