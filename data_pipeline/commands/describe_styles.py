"""`bdam describe styles` and `bdam describe compare-clusterings`: the writing styles of captions."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .errors import one_line_errors

if TYPE_CHECKING:
    import numpy as np

    from ..styles.neutralize_model import TextTask

Neutralization = Literal["auto", "rules", "mllm"]
Method = Literal["dbscan", "hdbscan", "kmeans", "gmm", "agglomerative", "random", "none"]
Name = Annotated[str | None, typer.Argument(help="A data set, or `synthetic`; its training captions are used.")]
DataDir = Annotated[Path | None, typer.Option(help="The folder of the data set.")]
Captions = Annotated[
    Path | None, typer.Option(help="A file instead of a data set: one caption per line, or .jsonl with `caption`.")
]
Neutralize = Annotated[
    Neutralization,
    typer.Option(help="Neutralize by English rules, with spaCy's tagger where it is installed (auto); or by a server."),
]
Model = Annotated[str | None, typer.Option(help="For --neutralize mllm: the model's name at the server.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="Address, like http://localhost:8000/v1. The key is read from $OPENAI_API_KEY.")
]
Prompts = Annotated[
    Path | None, typer.Option(help="Folder with your own neutralize_captions.txt or name_style.txt, for the model.")
]
InFlight = Annotated[int, typer.Option(help="Maximum number of concurrent requests.")]
Encoder = Annotated[
    str,
    typer.Option(
        help="Embeds captions: a CLIP model or sentence encoder, folder or Hub id. The default is from the paper, "
        "section 4.2; section 3.3 uses openai/clip-vit-large-patch14.",
    ),
]
Clusters = Annotated[int, typer.Option(help="Number of clusters, for kmeans, gmm, agglomerative and random.")]
MinCluster = Annotated[
    int | None,
    typer.Option(help="Clusters of fewer captions merge into the nearest.", show_default="1 % of the captions"),
]
BatchSize = Annotated[int, typer.Option(help="Captions per batch of the encoder.")]
Device = Annotated[str | None, typer.Option(help="Device of the encoder.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_ANSWERS_HELP = "JSON Lines of the model's answers; a stored answer is not requested again."
_NEUTRALIZE, _NAME = PROMPTS = ("neutralize_captions.txt", "name_style.txt")
_ENCODER = "openai/clip-vit-base-patch32"


def styles(
    output: Annotated[Path, typer.Option(help="The JSON file to write, for `bdam describe run --styles`.")],
    name: Name = None,
    data_dir: DataDir = None,
    captions: Captions = None,
    neutralize: Neutralize = "auto",
    model: Model = None,
    base_url: BaseUrl = None,
    prompts: Prompts = None,
    in_flight: InFlight = 32,
    answers: Annotated[Path | None, typer.Option(help=_ANSWERS_HELP, show_default="OUTPUT's .answers.jsonl")] = None,
    style_encoder: Encoder = _ENCODER,
    method: Annotated[Method, typer.Option(help="Clustering method.")] = "dbscan",
    clusters: Clusters = 10,
    eps: Annotated[
        float | None, typer.Option(help="DBSCAN's radius.", show_default="the knee of the k-distance curve")
    ] = None,
    min_samples: Annotated[int, typer.Option(help="DBSCAN: minimum captions of a dense region.")] = 4,
    min_cluster: MinCluster = None,
    exemplars: Annotated[int, typer.Option(help="Exemplars per style.")] = 6,
    plot: Annotated[Path | None, typer.Option(help="Plot of the styles: FILE.png.")] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Clusters captions by writing style and writes the name and exemplars of each style to a JSON file."""
    with one_line_errors():
        from ..styles.clustering import cluster
        from ..styles.style_names import names_by_model, names_by_rules
        from ..styles.styles import make_style_book

        texts = _read(name, data_dir, captions)
        ask = _tasks(neutralize, model, base_url, prompts, in_flight, answers or output.with_suffix(".answers.jsonl"))
        neutral, by_rules, neutralized_by = _neutral(texts, neutralize, ask)
        embeddings = _embed(neutral, style_encoder, batch_size, device)
        found = cluster(
            embeddings,
            method,
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
                "neutralized_by": model or neutralized_by,
                "neutralized_by_rules": by_rules,
                "style_encoder": style_encoder,
                "method": method,
                "eps": None if found.eps is None else round(found.eps, 4),
                "noise": round(found.noise, 4),
                "seed": seed,
            },
        )
        book.save(output)
        if found.count == 1 and method != "none":
            typer.echo("all captions are in one style: try a smaller --eps, or another --method", err=True)
        if plot is not None:
            from ..styles.style_plot import style_plot

            style_plot(plot, book, found, texts, embeddings, seed=seed)
        if as_json:
            typer.echo(output.read_text(encoding="utf-8"), nl=False)
            return
        _print_table(
            f"styles of {len(texts):,} captions",
            ("", "style", "captions", "for example"),
            [
                (str(number), style.name, f"{size:,}", style.exemplars[0])
                for number, (style, size) in enumerate(zip(book.styles, book.sizes, strict=True), start=1)
            ],
        )
        typer.echo(f"written to {output}", err=True)


def compare_clusterings(
    name: Name = None,
    data_dir: DataDir = None,
    captions: Captions = None,
    neutralize: Neutralize = "auto",
    model: Model = None,
    base_url: BaseUrl = None,
    prompts: Prompts = None,
    in_flight: InFlight = 32,
    answers: Annotated[Path, typer.Option(help=_ANSWERS_HELP)] = Path("style_answers.jsonl"),
    style_encoder: Encoder = _ENCODER,
    clusters: Clusters = 10,
    min_cluster: MinCluster = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compares the clustering methods of the paper's table 4 on the same captions.

    The adjusted Rand index needs true styles, which only `synthetic` has; other captions get the silhouette.
    """
    from dataclasses import asdict

    with one_line_errors():
        from ..styles.captions import true_styles_of_synthetic
        from ..styles.comparison import compare_clusterings as compare

        texts = _read(name, data_dir, captions)
        ask = _tasks(neutralize, model, base_url, prompts, in_flight, answers)
        neutral, by_rules, neutralized_by = _neutral(texts, neutralize, ask)
        embeddings = _embed(neutral, style_encoder, batch_size, device)
        truth = true_styles_of_synthetic() if name == "synthetic" else None
        rows = compare(embeddings, truth, num_clusters=clusters, min_cluster=min_cluster, seed=seed)
        if as_json:
            report = {
                "captions": len(texts),
                "wordings": len(set(neutral)),
                "neutralized_by": model or neutralized_by,
                "neutralized_by_rules": by_rules,
                "true_styles": None if truth is None else len(set(truth)),
                "methods": [asdict(row) for row in rows],
            }
            typer.echo(json.dumps(report, indent=1))
            return
        title = f"{len(texts):,} captions, {len(set(neutral)):,} neutral wordings"
        cells = []
        for row in rows:
            measures = [f"{value:.3f}" if value is not None else "–" for value in (row.rand_index, row.silhouette)]
            counts = (str(row.clusters), f"{row.noise:.1%}", f"{row.seconds:.1f}")
            cells.append((row.method, *measures, *counts, row.same_as or ""))
        headings = ("method", "Rand index", "silhouette", "clusters", "noise", "seconds", "same partition as")
        _print_table(title + (f", {len(set(truth))} true styles" if truth else ""), headings, cells)


def _read(name: str | None, data_dir: Path | None, captions: Path | None) -> list[str]:
    from ..styles.captions import captions_of_dataset, captions_of_file

    if (name is None) == (captions is None):
        raise ValueError("give either a data set or --captions FILE")
    return captions_of_file(captions) if captions is not None else captions_of_dataset(str(name), data_dir)


def _tasks(
    neutralize: Neutralization,
    model: str | None,
    base_url: str | None,
    prompts: Path | None,
    in_flight: int,
    answers: Path,
) -> "Callable[[str], TextTask] | None":
    """Returns a function that makes the `TextTask` of a prompt file; None for neutralization without a model."""
    if neutralize != "mllm":
        if model is not None:
            raise ValueError("--model requires --neutralize mllm")
        return None
    if model is None:
        raise ValueError("--neutralize mllm requires --model")
    from ..benchmarks.text_files import read_text
    from ..descriptions.backend import Sampling, ServerRefuses
    from ..descriptions.client import ChatClient
    from ..styles.text_tasks import PROMPT_FOLDER, text_tasks

    if prompts is not None and not any((prompts / file).is_file() for file in PROMPTS):
        raise FileNotFoundError(f"{prompts}: contains none of the prompt files {', '.join(PROMPTS)}")

    def connect() -> ChatClient:
        return ChatClient(model, base_url, sampling=Sampling(temperature=0.0), in_flight=in_flight)

    def task(prompt_file: str) -> "TextTask":
        own = PROMPT_FOLDER if prompts is None else prompts
        folder = own if (own / prompt_file).is_file() else PROMPT_FOLDER
        prompt = read_text(folder / prompt_file).strip()

        def ask(texts: list[str]) -> list[str]:
            try:
                return text_tasks(connect, prompt, texts, answers=answers)
            except ServerRefuses as error:
                raise OSError(str(error)) from None

        return ask

    return task


def _neutral(
    captions: list[str], by: Neutralization, ask: "Callable[[str], TextTask] | None"
) -> tuple[list[str], int, str]:
    """Neutralizes the captions; returns them, the number that the rules wrote, and the method."""
    if ask is None:
        from ..styles.neutralize import neutralize
        from ..styles.tagger import INSTALL, MODEL, load_tagger

        tagger = load_tagger() if by == "auto" else None
        if by == "auto" and tagger is None:
            typer.echo(f"neutralized by rules; spaCy's tagger finds more words: {INSTALL}", err=True)
        wordings = {caption: neutralize(caption, tagger) for caption in set(captions)}
        return [wordings[caption] for caption in captions], len(captions), MODEL if tagger else "rules"
    from ..styles.neutralize_model import neutralize_by_model

    neutral, by_rules = neutralize_by_model(captions, ask(_NEUTRALIZE))
    if by_rules:
        typer.echo(f"{by_rules} captions were neutralized by rules: the model's answers were unusable", err=True)
    return neutral, by_rules, "mllm"


def _embed(neutral: list[str], encoder: str, batch_size: int, device: str | None) -> "np.ndarray":
    from ..styles.style_encoder import StyleEncoder

    return StyleEncoder.load(encoder, device).embed(neutral, batch_size)


def _print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; columns of texts are left-aligned, columns of numbers right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_lines="style" in headings)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("method", "style", "for example") else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
