"""Report sections that are figures: gates, t-SNE, efficiency, examples."""

from .definitions import Experiment
from .efficiency import PAIRS, faster_at
from .figures import efficiency_figure
from .results import MeanStd, Results
from .section import Section, picture, table
from .sections_tables import COLUMNS
from .verdicts import compare, sentences

PICTURES = {
    "gates": {"gates": "Gate weights over the test images, mean ± standard deviation, first seed."},
    "tsne": {"tsne": "t-SNE of the embeddings of the same test images, one color per person, first seed."},
    "calibration": {
        "calibration": "Likelihood of the first 20 hits of each caption against the share of right hits; fitted on the "
        "validation split, shown for the test split, first seed."
    },
    "examples": {
        "retrieval": "Queries of the test split with their ten best results.",
        "attention": "Occlusion maps of the identity and the clothing of a caption: brighter regions cause a larger "
        "drop in similarity when they are masked.",
    },
}
PAPER_GATES = {"identity": (0.62, 0.18), "image": (0.53, 0.12)}


def pictures_section(experiment: Experiment, results: Results) -> Section:
    """Figures 3 and 4, the calibration, and the examples."""
    lines = [line for name, text in PICTURES[experiment.kind].items() for line in picture(results, name, text)]
    further = {"gates": gate_lines, "calibration": absence_lines}.get(experiment.kind)
    return Section(lines + (further(results) if further else []))


def absence_lines(results: Results) -> list[str]:
    """Says how often "probably not in this gallery" is right and wrong."""
    measured = results.measured.get("calibration")
    if measured is None:
        return []
    found, false = (MeanStd(*measured[name]) for name in ("absent_found", "absent_false"))
    return [
        f'- "Probably not in this gallery" is the answer to {found} % of the captions after all images of their person '
        f"were taken out of the gallery, and to {false} % of the captions with them ({found.seeds} seeds; the "
        "threshold is that of 10 % on the validation split).",
        "",
    ]


def gate_lines(results: Results) -> list[str]:
    """Says how the gate weights differ from those of the paper."""
    lines = []
    for name, (paper, spread) in PAPER_GATES.items():
        if name in results.measured.get("gates", {}):
            mean, std = results.measured["gates"][name]
            side, other = ("BDAM", "clothing") if name == "identity" else ("fusion", "text")
            word = "about the same as" if abs(mean - paper) < 0.02 else "higher than" if mean > paper else "lower than"
            lines.append(
                f"- The {side} gate gives {name} {mean:.2f} ± {std:.2f} and {other} {1 - mean:.2f}: {name} is {word} "
                f"in the paper, which reports {paper:.2f} ± {spread:.2f} and {1 - paper:.2f}."
            )
    if lines and results.study.is_synthetic:
        lines.append(
            "- The descriptions of the synthetic set are the true traits of the drawing (oracle), so a text is a "
            "better source of identity here than the descriptions of a multimodal LLM in the paper."
        )
    return [*lines, ""]


def efficiency_section(experiment: Experiment, results: Results) -> Section:
    """Figure 5: accuracy of re-ranking with each block, and the measured cost of the matching heads."""
    rows = results.rows(experiment)
    measured = results.measured["efficiency"]
    efficiency_figure(measured, results.figure("efficiency"))
    caption = "Measured cost of the matching heads over the number of tokens of an image and a query."
    section = Section(picture(results, "efficiency", caption))
    mambas = [row.row.name for row in rows if row.runs[0].settings["model"].get("matching_block", "mamba") == "mamba"]
    for name in mambas:
        for other in (row.row.name for row in rows if row.row.name not in mambas):
            lengths = faster_at(measured, name, other)
            where = f"at {', '.join(map(str, lengths))} tokens" if lengths else "at no measured length"
            section.findings.append(f"{name} is faster than {other} in forward and backward {where}.")
    section.lines += table(
        [
            {"": row.row.name, "seeds": row.seeds}
            | {title: row.metric(metric) for title, metric in COLUMNS.items() if "standard" in title or "re-r" in title}
            | {"run": row.run_id}
            for row in rows
        ]
    )
    section.lines += table(
        [
            {
                "": entry["name"],
                "tokens": entry["length"],
                "parameters": f"{entry['parameters']:,}",
                "forward and backward, ms": f"{entry['train_ms']:.1f}",
                "forward, ms": f"{entry['score_ms']:.1f}",
                "saved for backward, MB": f"{entry['memory_mb']:.1f}",
            }
            for entry in measured
        ]
    )
    assert experiment.reference is not None
    found = compare(rows, experiment.reference, prefixes=["reranked_"])
    section.findings += sentences(found, experiment.reference)
    section.lines += [
        f"Costs are those of {PAIRS} pairs on {measured[0]['device']}, with the widths and the dropout "
        f"({results.study.base['model'].get('dropout', 0.1):g}) of the preset. On CUDA with `mamba-ssm`, the state "
        "space uses fused kernels.",
        "",
        *(f"- {finding}" for finding in section.findings),
        "",
    ]
    return section
