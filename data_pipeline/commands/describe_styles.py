"""`bdam describe styles` and `bdam describe compare-clusterings`: how the captions of a data set are written."""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import one_line_errors

if TYPE_CHECKING:
    import numpy as np

    from ..styles.neutralize_model import TextTask


class Neutralization(str, enum.Enum):
    """Who replaces what a caption tells by vague words."""

    rules = "rules"
    mllm = "mllm"


class Method(str, enum.Enum):
    """The clusterings of the paper's table 4."""

    dbscan = "dbscan"
    hdbscan = "hdbscan"
    kmeans = "kmeans"
    gmm = "gmm"
    agglomerative = "agglomerative"
    random = "random"
    none = "none"


Name = Annotated[str | None, typer.Argument(help="A data set, or `synthetic`. Its training captions are taken.")]
DataDir = Annotated[Path | None, typer.Option(help="The folder of the data set.")]
Captions = Annotated[
    Path | None, typer.Option(help="Captions in place of a data set: one a line, or .jsonl with `caption`.")
]
Neutralize = Annotated[
    Neutralization, typer.Option(help="Who takes out what captions tell: English rules, or a model at a server.")
]
Model = Annotated[str | None, typer.Option(help="--neutralize mllm: the model's name at the server.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="The server, like http://localhost:8000/v1. Its key is taken from $OPENAI_API_KEY.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="A folder with neutralize_captions.txt or name_style.txt of your own, for the model."),
]
InFlight = Annotated[int, typer.Option(help="Most requests at once.")]
Encoder = Annotated[
    str,
    typer.Option(
        "--style-encoder",
        help="Embeds captions: a CLIP model or sentence encoder, folder or Hub id. Section 4.2 of the paper names the "
        "default, section 3.3 openai/clip-vit-large-patch14.",
    ),
]
Clusters = Annotated[int, typer.Option(help="How many, for kmeans, gmm, agglomerative and random.")]
MinCluster = Annotated[
    int | None,
    typer.Option(help="Clusters of fewer captions merge into the nearest.", show_default="1 % of the captions"),
]
BatchSize = Annotated[int, typer.Option(help="Captions embedded at once.")]
Device = Annotated[str | None, typer.Option(help="Where the encoder computes.")]
Seed = Annotated[int, typer.Option(help="Of whatever is drawn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_NEUTRALIZE, _NAME = PROMPTS = ("neutralize_captions.txt", "name_style.txt")
_ENCODER = "openai/clip-vit-base-patch32"


def styles(
    output: Annotated[Path, typer.Option(help="The JSON file to write, for `bdam describe run --styles`.")],
    name: Name = None,
    data_dir: DataDir = None,
    captions: Captions = None,
    neutralize: Neutralize = Neutralization.rules,
    model: Model = None,
    base_url: BaseUrl = None,
    prompts: Prompts = None,
    in_flight: InFlight = 32,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Where a model's answers are kept, to ask none twice.", show_default="OUTPUT's .answers.jsonl"
        ),
    ] = None,
    style_encoder: Encoder = _ENCODER,
    method: Annotated[Method, typer.Option(help="How captions are clustered.")] = Method.dbscan,
    clusters: Clusters = 10,
    eps: Annotated[
        float | None, typer.Option(help="DBSCAN's radius.", show_default="the knee of the k-distance curve")
    ] = None,
    min_samples: Annotated[int, typer.Option(help="DBSCAN: how many captions make a place dense.")] = 4,
    min_cluster: MinCluster = None,
    exemplars: Annotated[int, typer.Option(help="Captions that show a style.")] = 6,
    plot: Annotated[Path | None, typer.Option(help="Draw the styles: FILE.png, and a PDF beside it.")] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Finds the styles in which captions are written, and writes exemplars and a name of each to a JSON file."""
    with one_line_errors():
        from ..styles.clustering import cluster
        from ..styles.style_names import names_by_model, names_by_rules
        from ..styles.styles import make_style_book

        texts = _read(name, data_dir, captions)
        ask = _tasks(neutralize, model, base_url, prompts, in_flight, answers or output.with_suffix(".answers.jsonl"))
        neutral, by_rules = _neutral(texts, ask)
        embeddings = _embed(neutral, style_encoder, batch_size, device)
        found = cluster(
            embeddings,
            method.value,
            num_clusters=clusters,
            eps=eps,
            min_samples=min_samples,
            min_cluster=min_cluster,
            seed=seed,
        )
        book = make_style_book(
            texts,
            neutral,
            embeddings,
            found,
            names_by_rules if ask is None else names_by_model(ask(_NAME)),
            num_exemplars=exemplars,
            seed=seed,
            made_by={
                "captions": len(texts),
                "from": str(captions or name),
                "neutralized_by": neutralize.value if model is None else model,
                "neutralized_by_rules": by_rules,
                "style_encoder": style_encoder,
                "method": method.value,
                "eps": None if found.eps is None else round(found.eps, 4),
                "noise": round(found.noise, 4),
                "seed": seed,
            },
        )
        book.save(output)
        if found.count == 1 and method is not Method.none:
            typer.echo("all captions fell into one style: try a smaller --eps, or another --method", err=True)
        if plot is not None:
            from ..styles.style_plot import style_plot

            style_plot(plot, book, found, texts, embeddings, seed=seed)
        _print_styles(output, as_json)


def compare_clusterings(
    name: Name = None,
    data_dir: DataDir = None,
    captions: Captions = None,
    neutralize: Neutralize = Neutralization.rules,
    model: Model = None,
    base_url: BaseUrl = None,
    prompts: Prompts = None,
    in_flight: InFlight = 32,
    answers: Annotated[Path, typer.Option(help="Where a model's answers are kept, to ask none twice.")] = Path(
        "style_answers.jsonl"
    ),
    style_encoder: Encoder = _ENCODER,
    clusters: Clusters = 10,
    min_cluster: MinCluster = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compares the clusterings of the paper's table 4 on the same captions.

    The adjusted Rand index against the true styles is known for `synthetic` alone; for other captions there is the
    silhouette.
    """
    import json
    from dataclasses import asdict

    with one_line_errors():
        from ..styles.captions import true_styles_of_synthetic
        from ..styles.comparison import compare_clusterings as compare

        texts = _read(name, data_dir, captions)
        neutral, by_rules = _neutral(texts, _tasks(neutralize, model, base_url, prompts, in_flight, answers))
        embeddings = _embed(neutral, style_encoder, batch_size, device)
        truth = true_styles_of_synthetic() if name == "synthetic" else None
        rows = compare(embeddings, truth, num_clusters=clusters, min_cluster=min_cluster, seed=seed)
        if as_json:
            report = {
                "captions": len(texts),
                "wordings": len(set(neutral)),
                "neutralized_by_rules": by_rules,
                "true_styles": None if truth is None else len(set(truth)),
                "methods": [asdict(row) for row in rows],
            }
            typer.echo(json.dumps(report, indent=1))
            return
        from rich.console import Console
        from rich.table import Table

        title = f"{len(texts):,} captions, {len(set(neutral)):,} neutral wordings"
        table = Table(title=title + (f", {len(set(truth))} true styles" if truth else ""))
        for heading in ("method", "Rand index", "silhouette", "clusters", "noise", "seconds"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for row in rows:
            measures = [f"{value:.3f}" if value is not None else "–" for value in (row.rand_index, row.silhouette)]
            table.add_row(row.method, *measures, str(row.clusters), f"{row.noise:.1%}", f"{row.seconds:.1f}")
        Console().print(table)


def _read(name: str | None, data_dir: Path | None, captions: Path | None) -> list[str]:
    from ..styles.captions import captions_of_dataset, captions_of_file

    if (name is None) == (captions is None):
        raise ValueError("name either a data set or --captions FILE")
    return captions_of_file(captions) if captions is not None else captions_of_dataset(str(name), data_dir)


def _tasks(
    neutralize: Neutralization,
    model: str | None,
    base_url: str | None,
    prompts: Path | None,
    in_flight: int,
    answers: Path,
) -> "Callable[[str], TextTask] | None":
    """From the name of a packaged prompt to what the model makes of texts under it; None if the rules do it."""
    if neutralize is Neutralization.rules:
        if model is not None:
            raise ValueError("--model is for --neutralize mllm")
        return None
    if model is None:
        raise ValueError("--neutralize mllm: name the model (--model)")
    from ..benchmarks.text_files import read_text
    from ..descriptions.client import ChatClient, Sampling, ServerRefuses
    from ..styles.text_tasks import PROMPT_FOLDER, text_tasks

    if prompts is not None and not any((prompts / file).is_file() for file in PROMPTS):
        raise FileNotFoundError(f"{prompts}: holds none of {', '.join(PROMPTS)}")
    sampling = Sampling(temperature=0.0)

    def task(prompt_file: str) -> "TextTask":
        own = None if prompts is None else prompts / prompt_file
        prompt = read_text(own if own is not None and own.is_file() else PROMPT_FOLDER / prompt_file).strip()

        def ask(texts: list[str]) -> list[str]:
            try:
                return text_tasks(
                    lambda: ChatClient(str(model), base_url, sampling=sampling, in_flight=in_flight),
                    prompt,
                    texts,
                    answers=answers,
                )
            except ServerRefuses as error:
                raise OSError(str(error)) from None

        return ask

    return task


def _neutral(captions: list[str], ask: "Callable[[str], TextTask] | None") -> tuple[list[str], int]:
    """Neutral captions, and how many of them the rules wrote."""
    if ask is None:
        from ..styles.neutralize import neutralize

        return [neutralize(caption) for caption in captions], len(captions)
    from ..styles.neutralize_model import neutralize_by_model

    neutral = neutralize_by_model(captions, ask(_NEUTRALIZE))
    if neutral.by_rules:
        typer.echo(
            f"{neutral.by_rules} captions were neutralised by rules: the model's answers were unusable", err=True
        )
    return neutral.texts, neutral.by_rules


def _embed(neutral: list[str], encoder: str, batch_size: int, device: str | None) -> "np.ndarray":
    from ..styles.style_encoder import StyleEncoder

    return StyleEncoder.load(encoder, device).embed(neutral, batch_size)


def _print_styles(file: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..styles.styles import StyleBook

    book = StyleBook.load(file)
    table = Table(title=f"styles of {sum(book.sizes):,} captions", show_lines=True)
    for heading in ("", "style", "captions", "for example"):
        table.add_column(heading, justify="right" if heading in ("", "captions") else "left")
    for number, (style, size) in enumerate(zip(book.styles, book.sizes, strict=True), start=1):
        table.add_row(str(number), Text(style.name), f"{size:,}", Text(style.exemplars[0]))
    Console().print(table)
    typer.echo(f"written to {file}", err=True)
