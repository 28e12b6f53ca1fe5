"""`bdam`: inspect data sets, describe images, crop people, index and search a gallery, run experiments."""

import typer

from . import convert, crop, data, demo, describe, experiment, index, search, serve

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)
for module, name in (
    (data, "data"),
    (describe, "describe"),
    (crop, None),
    (index, None),
    (search, None),
    (demo, None),
    (serve, None),
    (experiment, "experiment"),
    (convert, None),
):
    app.add_typer(module.app, name=name)

if __name__ == "__main__":  # for torchrun -m
    app()
