"""`bdam`: look at data, describe images, index and search a gallery, run experiments."""

import typer

from . import convert, data, describe, experiment, search

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(data.app, name="data")
app.add_typer(describe.app, name="describe")
app.add_typer(search.app)
app.add_typer(experiment.app, name="experiment")
app.add_typer(convert.app)

if __name__ == "__main__":  # for torchrun -m
    app()
