"""`bdam experiment`: the paper's tables and figures, and ours."""

import typer

app = typer.Typer(no_args_is_help=True, help="The paper's tables and figures, and ours.")
