"""`bdam`: inspect data sets, describe images, index and search a gallery, run experiments."""

import typer

from . import convert, data, describe, experiment, search

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)
for module, name in (
    (data, "data"),
    (describe, "describe"),
    (search, None),
    (experiment, "experiment"),
    (convert, None),
):
    app.add_typer(module.app, name=name)

if __name__ == "__main__":  # for torchrun -m
    app()
