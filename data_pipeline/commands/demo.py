"""`bdam demo`: serve a search page."""

from typing import Annotated

import typer

from .gallery_options import Device, IndexFolder, Model, gallery_errors, quiet_transformers, wait_for_end

app = typer.Typer()


@app.command()
def demo(
    index: IndexFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of the page; 0 for a free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="Require the login USER:PASSWORD.", envvar="BDAM_DEMO_AUTH", show_envvar=True)
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Accept connections from other machines; requires --auth.")
    ] = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Serves a search page for an index, on loopback only by default."""
    with gallery_errors():
        quiet_transformers()
        from ..search.demo.server import serve_demo
        from ..search.gallery import PersonGallery

        user, colon, password = (auth or "").partition(":")
        if auth is not None and not (user and colon and password):
            raise ValueError("--auth must be USER:PASSWORD")
        with (
            PersonGallery.open(index, model, device) as gallery,
            serve_demo(gallery, port, None if auth is None else (user, password), allow_remote) as address,
        ):
            typer.echo(f"{index}: {len(gallery)} images at {address} (Ctrl-C ends)")
            wait_for_end()
