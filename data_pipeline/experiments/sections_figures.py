"""Sections of the report that are figures: gates, t-SNE, efficiency, examples."""

import json
from collections.abc import Sequence

from .cells import write_json
from .definitions import Experiment
from .efficiency import measure_fusion
from .features import Features
from .figures import efficiency_figure, gates_figure, tsne_figure
from .results import RowResult, RunResults
from .section import Section, cell_link, picture, table


def gates_section(experiment: Experiment, results: RunResults) -> Section:
    """Figure 3."""
    features = _first_features(results.rows(experiment))
    branches = None if features is None else features.branches("test")
    if branches is None:
        return Section(["No features of this row are there yet.", ""])
    path = gates_figure(branches, results.output_dir / "figures" / "gates.png")
    section = Section(picture(path, results, "Gate weights over the test images, mean ± deviation, first seed."))
    section.lines += ["The paper reads 0.62 ± 0.18 for identity, and 0.53 and 0.47 (± 0.12) for image and text.", ""]
    return section


def tsne_section(experiment: Experiment, results: RunResults) -> Section:
    """Figure 4."""
    entangled, decoupled = (_first_features([row]) for row in results.rows(experiment))
    if entangled is None or decoupled is None:
        return Section(["Features of both rows are not there yet.", ""])
    one, other = entangled.branches("test"), decoupled.branches("test")
    assert one is not None and other is not None
    path = results.output_dir / "figures" / "tsne.png"
    tsne_figure(one.identity_embeds, other, one.person_ids, path)
    caption = "t-SNE of embeddings of the same test images, a color a person, first seed."
    return Section(picture(path, results, caption))


def efficiency_section(experiment: Experiment, results: RunResults) -> Section:
    """Figure 5: accuracy from the cells, cost measured now, once for a run."""
    rows = results.rows(experiment)
    kept = results.output_dir / "efficiency.json"
    if not kept.is_file():
        data = results.run.base["data"]
        size = (data.get("image_height", 128), data.get("image_width", 64))
        measured = [
            entry for row in rows for entry in measure_fusion(row.row.name, row.cells[0].settings["model"], size)
        ]
        write_json(kept, measured)
    measured = json.loads(kept.read_text(encoding="utf-8"))
    accuracy = {row.row.name: figure for row in rows if (figure := row.test("mAP")) is not None}
    path = results.output_dir / "figures" / "efficiency.png"
    efficiency_figure({name: (figure.mean, figure.deviation) for name, figure in accuracy.items()}, measured, path)
    section = Section(
        picture(path, results, "Accuracy and measured cost of the fusion; arrows point to the better side.")
    )
    header = [
        "",
        "sequence",
        "tokens",
        "standard mAP",
        "parameters",
        "FLOPs of one image",
        "images/s in batches of 64",
        "latency, ms",
        "kept for backward, MB",
        "peak on the GPU, MB",
        "config",
    ]
    trained_on = results.run.base["model"].get("fusion_sequence", "global")
    by_name = {row.row.name: row for row in rows}
    section.lines += table(
        header,
        [
            [
                entry["name"],
                entry["sequence"],
                entry["length"],
                accuracy.get(entry["name"]) if entry["sequence"] == trained_on else None,
                f"{entry['parameters']:,}",
                f"{entry['flops']:,}",
                f"{entry['throughput']:,.0f}",
                f"{entry['latency_ms']:.3f}",
                f"{entry['memory_mb']:.1f}",
                None if entry["peak_memory_mb"] is None else f"{entry['peak_memory_mb']:.1f}",
                cell_link(by_name[entry["name"]], results),
            ]
            for entry in measured
        ],
    )
    section.lines += [
        "Of the fusion head alone, an image and its description in, one vector out. FLOPs count matrix products and "
        "one operation for each number that an elementwise operation gives. Accuracy is that of models trained with "
        f"`fusion_sequence: {trained_on}`. On a CPU the state space walks its sequence step by step; on CUDA with "
        "`mamba-ssm` it has fused kernels.",
        "",
    ]
    return section


def examples_section(experiment: Experiment, results: RunResults) -> Section:
    """Retrieval sheet and attention maps, as the training left them."""
    folders = [folder / "examples" for row in results.rows(experiment) for folder in row.folders]
    folder = next((folder for folder in folders if (folder / "attention.png").is_file()), None)
    if folder is None:
        return Section(["No examples of this row are there yet.", ""])
    lines = picture(folder / "retrieval.png", results, "Queries of the test split beside their top ten.")
    caption = (
        "Where the model finds a caption's identity and its clothing: each place is covered in turn, and bright is "
        "what the likeness with that half of the caption loses."
    )
    return Section(lines + picture(folder / "attention.png", results, caption))


def _first_features(rows: Sequence[RowResult]) -> Features | None:
    return next((features for row in rows for features in row.features()), None)
