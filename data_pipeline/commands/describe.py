"""`bdam describe`: annotator styles, and descriptions by a multimodal LLM."""

import typer

app = typer.Typer(no_args_is_help=True, help="Annotator styles, and descriptions by a multimodal LLM.")
