"""`bdam index`, `bdam search`, `bdam demo`: index a gallery of person images, search it, show it in a browser."""

import typer

app = typer.Typer(no_args_is_help=True, help="Index a gallery of person images, search it, show it in a browser.")
