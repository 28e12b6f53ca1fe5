"""Sections of the report that go beyond the paper: β, disentanglement, wrong texts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .definitions import Experiment
from .features import Features
from .figures import Curve, curves_figure, probes_figure
from .probes import KINDS, disentanglement, gain_over_chance, leak
from .results import PROTOCOLS, Figure, RowResult, RunResults
from .section import MISSING, Section, cell_link, picture, table
from .verdicts import judge

BETAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BETA_SPLITS = ("validation", "test")
Measured = dict[str, Any]  # what `probes.disentanglement` returns
# Columns of the disentanglement table: a number of one model each; those named PROBED need the truth about the images.
PROBED: dict[str, Callable[[Measured], float]] = {
    "clothing told by identity embedding": lambda probed: (
        100 * gain_over_chance(probed, "identity embedding", "clothing")
    ),
    "… by clothing embedding": lambda probed: 100 * gain_over_chance(probed, "clothing embedding", "clothing"),
    "leak of clothing": lambda probed: leak(probed, "embedding", "clothing"),
    "identity told by clothing embedding": lambda probed: (
        100 * gain_over_chance(probed, "clothing embedding", "identity")
    ),
    "… by identity embedding": lambda probed: 100 * gain_over_chance(probed, "identity embedding", "identity"),
    "leak of identity": lambda probed: leak(probed, "embedding", "identity"),
    "leak of clothing into f_id": lambda probed: leak(probed, "features", "clothing"),
    "leak of identity into f_clo": lambda probed: leak(probed, "features", "identity"),
}
LEAKS = {
    "leak of clothing": "Of what the clothing embedding tells about clothing, the identity embedding tells",
    "leak of identity": "Of what the identity embedding tells about identity, the clothing embedding tells",
    "leak of clothing into f_id": "Of what f_clo tells about clothing, f_id tells",
    "leak of identity into f_clo": "Of what f_id tells about identity, f_clo tells",
}
CHANGING, SAME = "clothes-changing mAP, β = 0", "same-clothes mAP, β = 0"
UNPROBED: dict[str, tuple[str, Callable[[Measured], float]]] = {
    "HSIC": ("hsic", lambda measured: measured["hsic"]),
    CHANGING: ("clothes_changing", lambda measured: 100 * measured["clothes_changing"]["mAP"]),
    SAME: ("same_clothes", lambda measured: 100 * measured["same_clothes"]["mAP"]),
}


def beta_section(experiment: Experiment, results: RunResults) -> Section:
    """Rank-1 over β for every protocol; the best β of the validation split beside the preset's."""
    sweeps = [found for row in results.rows(experiment) for found in row.measured("beta", beta_sweep)]
    if not sweeps:
        return Section(["No features of this row are there yet.", ""])
    curves = {split: {protocol: _curve(sweeps, split, protocol) for protocol in PROTOCOLS} for split in BETA_SPLITS}
    test = {protocol: curve for protocol, curve in curves["test"].items() if curve is not None}
    changing = test.pop("clothes-changing", None)
    panels: dict[str, list[Curve]] = {"any clothes": list(test.values())}
    if changing is not None:
        panels["changed clothes"] = [changing]
    path = curves_figure(panels, "β", "rank-1, test, %", results.output_dir / "figures" / "beta.png", best=True)
    section = Section(picture(path, results, "Rank-1 on the test split over β, by protocol; a ring marks the best."))
    rows = []
    for protocol, curve in curves["test"].items():
        if curve is None:
            continue
        picked = curves["validation"][protocol]
        best = int(np.argmax(curve.mean))
        section.findings.append(f"β: {protocol} rank-1 is highest at β = {curve.x[best]:g} ({curve.mean[best]:.2f}).")
        by_validation = MISSING if picked is None else f"{picked.x[int(np.argmax(picked.mean))]:g}"
        rows.append([protocol, by_validation, *(f"{value:.2f}" for value in curve.mean)])
    header = ["test rank-1, %", "best β on validation", *(f"β = {beta:g}" for beta in BETAS)]
    section.lines += table(header, rows)
    section.lines += [f"Seeds: {len(sweeps)}; the preset's β is {sweeps[0]['clothing_weight']:g}.", ""]
    return section


def disentanglement_section(experiment: Experiment, results: RunResults) -> Section:
    """Linear probes, HSIC, retrieval in the same and in other clothes."""
    section, lines = Section(), []
    rows = results.rows(experiment)
    for row in rows:
        measured = row.measured("disentanglement", disentanglement)
        figures = disentanglement_figures(measured)
        lines.append([row.row.name, f"{len(measured)} of {len(row.cells)}", *figures.values(), cell_link(row, results)])
        if row.row.name == experiment.reference:
            section.findings += leak_findings(figures)
            probed = [entry["probes"] for entry in measured if "probes" in entry]
            if probed:
                path = probes_figure(_averaged(probed), results.output_dir / "figures" / "probes.png")
                section.lines += picture(path, results, f"What linear probes tell from '{row.row.name}', test people.")
    metric = "clothes_changing_mAP"
    if experiment.reference is not None and any(row.test(metric) for row in rows):
        section.findings += judge(rows, experiment.reference, {metric: "Clothes-changing mAP at β = 0"})
    section.lines += table(["", "seeds", *PROBED, *UNPROBED, "config"], lines)
    section.lines += [
        "Told: accuracy of a linear probe above chance (the best constant answer), points, mean over "
        f"{len(KINDS['clothing'])} clothing attributes or {len(KINDS['identity'])} identity traits of the synthetic "
        f"set; probes learn from {results.run.probe_people} people who are in no split. Leak: the wrong branch's share "
        "of what the right branch tells; at most 0.5 is wanted, and a dash is where the right one tells nothing. HSIC "
        "is normalized to [0, 1]. A model trained on captions alone has no clothing branch to speak of: its leaks mean "
        "nothing.",
        "",
        *(f"- {finding}" for finding in section.findings),
        "",
    ]
    return section


def disentanglement_figures(measured: Sequence[Measured]) -> dict[str, Figure | None]:
    """The columns of a row's seeds; None where they could not be measured."""
    probed = [entry["probes"] for entry in measured if "probes" in entry]
    figures = {name: Figure.of([value(entry) for entry in probed]) for name, value in PROBED.items()}
    for name, (key, value) in UNPROBED.items():
        figures[name] = Figure.of([value(entry) for entry in measured if key in entry])
    return figures


def leak_findings(figures: dict[str, Figure | None]) -> list[str]:
    """The leaks in words."""
    found = []
    for name, sentence in LEAKS.items():
        figure = figures[name]
        if figure is not None:
            word = "at most half" if figure.mean <= 0.5 else "**more than half**"
            found.append(f"{sentence} {figure}: {word}.")
    return found


def noise_section(experiment: Experiment, results: RunResults) -> Section:
    """Rank-1 over the share of wrong texts, plain and robust."""
    rows = results.rows(experiment)
    names = list(dict.fromkeys(row.row.name for row in rows))
    header = [
        "",
        "wrong texts",
        "seeds",
        "standard R-1",
        "standard mAP",
        "described R-1",
        "clothes-changing mAP",
        "config",
    ]
    metrics = ("rank1", "mAP", "described_rank1", "clothes_changing_mAP")
    section = Section()
    curves: dict[str, list[Curve]] = {"standard": [], "described gallery": []}
    for name in names:
        chosen = [row for row in rows if row.row.name == name]
        for title, metric in (("standard", "rank1"), ("described gallery", "described_rank1")):
            points = [(100 * row.row.noise, figure) for row in chosen if (figure := row.test(metric)) is not None]
            if points:
                shares, found = zip(*points, strict=True)
                curves[title].append(Curve(name, shares, [f.mean for f in found], [f.deviation for f in found]))
    curves = {title: found for title, found in curves.items() if found}
    if curves:
        path = results.output_dir / "figures" / "noise.png"
        curves_figure(curves, "training images with wrong texts, %", "rank-1, test, %", path)
        section.lines += picture(path, results, "Rank-1 on the test split over the share of wrong training texts.")
    section.lines += table(
        header,
        [
            [
                row.row.name,
                f"{100 * row.row.noise:g} %",
                row.seeds,
                *(row.test(metric) for metric in metrics),
                cell_link(row, results),
            ]
            for row in rows
        ],
    )
    noises = sorted({row.row.noise for row in rows} - {0.0})
    section.findings = [finding for noise in noises if (finding := _kept(rows, noise)) is not None]
    section.lines += [*(f"- {finding}" for finding in section.findings), ""]
    return section


def _kept(rows: Sequence[RowResult], noise: float) -> str | None:
    """How much of what some share of wrong texts costs the robust option keeps; None where a row is missing."""
    means = _means_over_common_seeds(rows, ("plain", 0.0), ("plain", noise), ("robust", noise))
    if means is None:
        return None
    clean, plain, robust = means
    lost, kept = clean - plain, robust - plain
    share = f"{kept / lost:.2f} of it" if lost > 0 else "nothing was lost"
    finding = (
        f"At {100 * noise:g} % wrong texts plain training loses {lost:.2f} points of standard rank-1; the robust "
        f"option keeps {kept:.2f} of them ({share})."
    )
    told = _means_over_common_seeds(rows, ("plain", noise), ("right texts alone", noise))
    if told is not None:
        finding += f" To know which texts are wrong, and to train without them, keeps {told[1] - told[0]:.2f}."
    return finding


def _means_over_common_seeds(rows: Sequence[RowResult], *keys: tuple[str, float]) -> list[float] | None:
    """Standard rank-1 of the rows of some names and shares of wrong texts, over the seeds that all of them have."""
    by_key = {(row.row.name, row.row.noise): row for row in rows}
    chosen = [by_key[key] for key in keys if key in by_key]
    seeds = set.intersection(*({result["seed"] for result in row.results} for row in chosen)) if chosen else set()
    found = [figure.mean for row in chosen if (figure := row.of_split("test", "rank1", seeds)) is not None]
    return found if len(found) == len(keys) else None


def beta_sweep(features: Features) -> dict[str, Any]:
    """Rank-1 over `BETAS`, per cent, by split and protocol, and the model's own `clothing_weight`."""
    found: dict[str, Any] = {"clothing_weight": features.clothing_weight}
    for name in BETA_SPLITS:
        split = features.split(name)
        scores: dict[str, Callable[[float], dict[str, float]]] = {"standard": split.standard}
        if split.described_gallery is not None:
            scores["described"] = split.described
        if split.changes_clothes:
            scores["clothes-changing"] = split.clothes_changing
        found[name] = {protocol: [100 * score(beta)["rank1"] for beta in BETAS] for protocol, score in scores.items()}
    return found


def _curve(sweeps: Sequence[dict[str, Any]], split: str, protocol: str) -> Curve | None:
    """Mean and deviation over seeds; None where the split does not allow the protocol."""
    values = [sweep[split][protocol] for sweep in sweeps if protocol in sweep[split]]
    if not values:
        return None
    figures = [Figure.of(column) for column in zip(*values, strict=True)]
    known = [figure for figure in figures if figure is not None]
    return Curve(protocol, BETAS, [figure.mean for figure in known], [figure.deviation for figure in known])


def _averaged(probed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Probes averaged over seeds."""
    return {
        "accuracy": {
            branch: {name: float(np.mean([p["accuracy"][branch][name] for p in probed])) for name in values}
            for branch, values in probed[0]["accuracy"].items()
        },
        "chance": {name: float(np.mean([p["chance"][name] for p in probed])) for name in probed[0]["chance"]},
    }
