"""`bdam data`: look at a data set before training on it."""

import typer

app = typer.Typer(no_args_is_help=True, help="Look at a data set before training on it.")
