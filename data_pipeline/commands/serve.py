"""`bdam serve`: serve searches over HTTP."""

from typing import Annotated

import typer

from .gallery_options import Device, IndexFolder, Model, gallery_errors, quiet_transformers, wait_for_end

app = typer.Typer()


@app.command()
def serve(
    index: IndexFolder,
    host: Annotated[str, typer.Option(help="Address of the network interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            help="Bearer token of each request; required unless the host is loopback. Other users of this machine can "
            "read the command line, but not the variable.",
            envvar="BDAM_TOKEN",
            show_envvar=True,
        ),
    ] = None,
    model: Model = None,
    device: Device = None,
) -> None:
    """Serves searches over HTTP (REST API), on loopback only by default; /docs describes it."""
    with gallery_errors():
        quiet_transformers()
        from ..search.gallery import PersonGallery
        from ..search.serve.server import serve_gallery

        with (
            PersonGallery.open(index, model, device) as gallery,
            serve_gallery(gallery, host, port, token) as address,
        ):
            typer.echo(f"{index}: {len(gallery)} images at {address}/docs (Ctrl-C ends)")
            wait_for_end()
