"""Report sections beyond the paper: weight β, disentanglement, robustness to wrong texts."""

from collections.abc import Mapping, Sequence

import numpy as np

from .definitions import Experiment
from .figures import Curve, curves_figure
from .probes import KINDS
from .results import MeanStd, Results, RowResult
from .section import NOT_MEASURED, Section, picture, table
from .verdicts import compare, sentences

# For each column with a leakage: the two representations that it compares, and the attributes.
LEAKAGES = {
    "clothing leakage, embeddings": "The identity embedding retains {} of the clothing information in the clothing "
    "embedding",
    "identity leakage, embeddings": "The clothing embedding retains {} of the identity information in the identity "
    "embedding",
    "clothing leakage into f_id": "f_id retains {} of the clothing information in f_clo",
    "identity leakage into f_clo": "f_clo retains {} of the identity information in f_id",
}
NOISE_METRICS = {
    "standard R-1": "rank1",
    "standard mAP": "mAP",
    "described R-1": "described_rank1",
    "clothes-changing mAP": "clothes_changing_mAP",
}


def beta_section(experiment: Experiment, results: Results) -> Section:
    """Rank-1 over β for each protocol, with the β that is best on the validation split."""
    if "beta" not in results.measured:
        return Section([NOT_MEASURED, ""])
    measured = results.measured["beta"]
    caption = "Rank-1 on the test split over β by protocol; a ring marks the best value of each curve."
    section = Section(picture(results, "beta", caption))
    lines = []
    for protocol, found in measured["protocols"].items():
        best = int(np.argmax(found["test"]))
        name, value = results.label(protocol), found["test"][best]
        section.findings.append(f"β: {name} rank-1 is highest at β = {measured['betas'][best]:g} ({value:.2f}).")
        by_validation = found["best_on_validation"]
        line = {
            "test rank-1, %": name,
            "best β on validation": None if by_validation is None else f"{by_validation:g}",
        }
        betas = zip(measured["betas"], found["test"], strict=True)
        lines.append(line | {f"β = {beta:g}": f"{value:.2f}" for beta, value in betas})
    section.lines += table(lines)
    section.lines += [f"Seeds: {measured['seeds']}; the preset has β = {measured['clothing_weight']:g}.", ""]
    return section


def disentanglement_section(experiment: Experiment, results: Results) -> Section:
    """Linear probes, HSIC, and retrieval in the same and in other clothes."""
    measured = results.measured.get("disentanglement", {})
    if not measured:
        return Section([NOT_MEASURED, ""])
    section, lines = Section(), []
    rows = results.rows(experiment)
    titles = next(iter(measured.values()))["columns"]
    for row in rows:
        found = measured.get(row.row.name, {"seeds": 0, "columns": dict.fromkeys(titles)})
        figures = {title: value and MeanStd(*value) for title, value in found["columns"].items()}
        seeds = f"{found['seeds']} of {len(row.runs)}"
        lines.append({"": row.row.name, "seeds": seeds, **figures, "run": row.run_id})
        if row.row.name == experiment.reference:
            section.findings += leak_findings(figures)
            if figures["clothing from clothing embedding"] is not None:
                caption = f"Accuracy of linear probes on the branches of '{row.row.name}', test people."
                section.lines += picture(results, "probes", caption)
    prefix = "clothes_changing_"
    if experiment.reference is not None:
        section.findings += sentences(compare(rows, experiment.reference, ["mAP"], [prefix]), experiment.reference)
    section.lines += table(lines)
    section.lines += [
        "'A from B': accuracy of linear probes for A on B above chance (the best constant answer), in points, averaged "
        f"over {len(KINDS['clothing'])} clothing attributes or {len(KINDS['identity'])} identity traits of the "
        f"synthetic set. The probes are fitted on {results.study.probe_people} people in no split. Leakage: the "
        "gain over chance of the wrong branch divided by that of the right branch; at most 0.5 is desired, and a dash "
        "means that the right branch is not above chance. HSIC is normalized to [0, 1]. A model trained only on "
        "captions has no meaningful clothing branch, and therefore no meaningful leakage.",
        "",
        *(f"- {finding}" for finding in section.findings),
        "",
    ]
    return section


def leak_findings(figures: Mapping[str, MeanStd | None]) -> list[str]:
    """Writes one sentence per leakage."""
    found = []
    for title, sentence in LEAKAGES.items():
        figure = figures[title]
        if figure is not None:
            found.append(
                sentence.format(figure) + (": at most half." if figure.mean <= 0.5 else ": **more than half**.")
            )
    return found


def noise_section(experiment: Experiment, results: Results) -> Section:
    """Rank-1 over the share of wrong texts, for plain training, the robust option and clean texts only."""
    rows = results.rows(experiment)
    curves: dict[str, list[Curve]] = {}
    for title, metric in (("standard", "rank1"), ("described gallery", "described_rank1")):
        for name in dict.fromkeys(row.row.name for row in rows):
            chosen = [row for row in rows if row.row.name == name]
            points = [(100 * row.row.noise, found) for row in chosen if (found := row.metric(metric)) is not None]
            if points:
                shares, figures = zip(*points, strict=True)
                curve = Curve(name, shares, [figure.mean for figure in figures], [figure.std for figure in figures])
                curves.setdefault(results.label(title), []).append(curve)
    section = Section()
    if curves:
        curves_figure(curves, "training images with wrong texts, %", "rank-1, test, %", results.figure("noise"))
        section.lines += picture(results, "noise", "Rank-1 on the test split over the share of wrong training texts.")
    section.lines += table(
        [
            {"": row.row.name, "wrong texts": f"{100 * row.row.noise:g} %", "seeds": row.seeds}
            | {results.label(title): row.metric(metric) for title, metric in NOISE_METRICS.items()}
            | {"run": row.run_id}
            for row in rows
        ]
    )
    noises = sorted({row.row.noise for row in rows} - {0.0})
    section.findings = [finding for noise in noises if (finding := _recovered(rows, noise)) is not None]
    section.lines += [*(f"- {finding}" for finding in section.findings), ""]
    return section


def _recovered(rows: Sequence[RowResult], noise: float) -> str | None:
    """Compares the rank-1 that a share of wrong texts costs with the part recovered; None where a row is missing."""
    means = _means_over_common_seeds(rows, ("plain", 0.0), ("plain", noise), ("robust", noise))
    if means is None:
        return None
    clean, plain, robust = means
    lost, kept = clean - plain, robust - plain
    share = f"{kept / lost:.2f} of the loss" if lost > 0 else "there is no loss"
    finding = (
        f"With {100 * noise:g} % wrong texts, plain training loses {lost:.2f} points of standard rank-1; the robust "
        f"option recovers {kept:.2f} points ({share})."
    )
    oracle = _means_over_common_seeds(rows, ("plain", noise), ("clean texts only", noise))
    if oracle is not None:
        finding += f" Training only on the clean texts recovers {oracle[1] - oracle[0]:.2f}."
    return finding


def _means_over_common_seeds(rows: Sequence[RowResult], *keys: tuple[str, float]) -> list[float] | None:
    """Mean standard rank-1 of the rows with some names and shares of wrong texts, over the seeds that all have."""
    by_key = {(row.row.name, row.row.noise): row for row in rows}
    chosen = [by_key[key] for key in keys if key in by_key]
    seeds = set.intersection(*({result["seed"] for result in row.results} for row in chosen)) if chosen else set()
    found = [figure.mean for row in chosen if (figure := row.metric("rank1", seeds=seeds)) is not None]
    return found if len(found) == len(keys) else None
