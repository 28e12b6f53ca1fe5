"""Report sections that are figures: gates, t-SNE, efficiency, examples."""

from .definitions import Experiment
from .figures import efficiency_figure
from .results import Results
from .section import Section, picture, table

PICTURES = {
    "gates": {"gates": "Gate weights over the test images, mean ± standard deviation, first seed."},
    "tsne": {"tsne": "t-SNE of the embeddings of the same test images, one color per person, first seed."},
    "examples": {
        "retrieval": "Queries of the test split with their ten best results.",
        "attention": "Occlusion maps of the identity and the clothing of a caption: brighter regions cause a larger "
        "drop in similarity when they are masked.",
    },
}
PAPER_GATES = "The paper reports 0.62 ± 0.18 for identity, 0.53 ± 0.12 for image and 0.47 ± 0.12 for text."


def pictures_section(experiment: Experiment, results: Results) -> Section:
    """Figures 3 and 4, and the examples."""
    lines = [line for name, text in PICTURES[experiment.kind].items() for line in picture(results, name, text)]
    return Section(lines + ([PAPER_GATES, ""] if experiment.kind == "gates" else []))


def efficiency_section(experiment: Experiment, results: Results) -> Section:
    """Figure 5: accuracy of the trained models, and the measured cost of their fusion heads."""
    rows = {row.row.name: row for row in results.rows(experiment)}
    accuracy = {name: figure for name, row in rows.items() if (figure := row.metric("mAP")) is not None}
    measured = results.measured["efficiency"]
    means = {name: (figure.mean, figure.std) for name, figure in accuracy.items()}
    efficiency_figure(means, measured, results.figure("efficiency"))
    caption = "Accuracy and measured cost of the fusion blocks; arrows point to the better side."
    section = Section(picture(results, "efficiency", caption))
    trained_on = results.study.base["model"].get("fusion_sequence", "global")
    section.lines += table(
        [
            {
                "": entry["name"],
                "sequence": entry["sequence"],
                "tokens": entry["length"],
                "standard mAP": accuracy.get(entry["name"]) if entry["sequence"] == trained_on else None,
                "parameters": f"{entry['parameters']:,}",
                "FLOPs of one image": f"{entry['flops']:,}",
                "images/s in batches of 64": f"{entry['throughput']:,.0f}",
                "latency, ms": f"{entry['latency_ms']:.3f}",
                "saved for backward, MB": f"{entry['memory_mb']:.1f}",
                "GPU peak, MB": None if entry["peak_memory_mb"] is None else f"{entry['peak_memory_mb']:.1f}",
                "run": rows[entry["name"]].run_id,
            }
            for entry in measured
        ]
    )
    section.lines += [
        "Costs are those of the fusion head only: an image and its description as input, one vector as output. FLOPs "
        "count matrix products and one operation per output element of elementwise operations. The accuracy is of "
        f"models trained with `fusion_sequence: {trained_on}`. On a CPU, the state space is computed step by step; on "
        "CUDA with `mamba-ssm`, it uses fused kernels.",
        "",
    ]
    return section
