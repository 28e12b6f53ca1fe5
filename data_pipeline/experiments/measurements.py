"""Measures what needs the kept outputs of runs (features, example images) and draws the figures made from them.

The table values are stored in the first line of `results.jsonl`, under `measured`. Where no run has kept its outputs,
as in a copy of `results.jsonl` and `figures/`, the stored values and figures remain unchanged.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeling_bdam.evaluation.calibration import absence_metrics, calibrate, reliability
from modeling_bdam.files import write_json

from ..sheets.calibration_plot import draw_calibration
from .definitions import Experiment
from .efficiency import measure_head
from .features import MEASURED, Features
from .figures import Curve, compress_png, curves_figure, gates_figure, probes_figure, tsne_figure
from .probes import disentanglement, gain_over_chance, leak
from .results import MeanStd, Results, RowResult

BETAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
EXAMPLES_WIDTH = 900  # pixels
CHANGING, SAME = "clothes-changing mAP, β = 0", "same-clothes mAP, β = 0"


def measure(results: Results) -> None:
    """Updates `results.measured` and the figures of all experiments that need kept outputs."""
    for experiment in results.experiments:
        if experiment.kind in _MEASURES:
            _MEASURES[experiment.kind](experiment, results)


def _measure_beta(experiment: Experiment, results: Results) -> None:
    sweeps = [found for row in results.rows(experiment) for found in _per_run(row, results, "beta", beta_sweep)]
    if not sweeps or len(sweeps) < results.measured.get("beta", {"seeds": 0})["seeds"]:
        return
    protocols: dict[str, Any] = {}
    curves: dict[str, Curve] = {}
    for protocol in sweeps[0]["test"]:
        test = curves[results.label(protocol)] = _curve(sweeps, "test", protocol)
        best = None
        if protocol in sweeps[0]["validation"]:
            best = BETAS[int(np.argmax(_curve(sweeps, "validation", protocol).mean))]
        protocols[protocol] = {"best_on_validation": best, "test": test.mean}
    results.measured["beta"] = {
        "seeds": len(sweeps),
        "clothing_weight": sweeps[0]["clothing_weight"],
        "betas": BETAS,
        "protocols": protocols,
    }
    changing = curves.pop("clothes-changing", None)
    panels = {"any clothes": list(curves.values())} | ({} if changing is None else {"changed clothes": [changing]})
    curves_figure(panels, "β", "rank-1, test, %", results.figure("beta"), best=True)


def beta_sweep(features: Features) -> dict[str, Any]:
    """Rank-1 in percent over `BETAS` by split and protocol, and the `clothing_weight` of the model."""
    found: dict[str, Any] = {"clothing_weight": features.clothing_weight}
    for name in ("validation", "test"):
        split = features.split(name)
        scores: dict[str, Callable[[float], dict[str, float]]] = {"standard": split.standard}
        if split.described_gallery is not None:
            scores["described"] = split.described
        if split.changes_clothes:
            scores["clothes-changing"] = split.clothes_changing
        found[name] = {protocol: [100 * score(beta)["rank1"] for beta in BETAS] for protocol, score in scores.items()}
    return found


def _curve(sweeps: Sequence[dict[str, Any]], split: str, protocol: str) -> Curve:
    columns = zip(*(sweep[split][protocol] for sweep in sweeps), strict=True)
    figures = [figure for column in columns if (figure := MeanStd.of(column)) is not None]
    return Curve(protocol, BETAS, [figure.mean for figure in figures], [figure.std for figure in figures])


def _measure_disentanglement(experiment: Experiment, results: Results) -> None:
    stored = results.measured.get("disentanglement", {})
    for row in results.rows(experiment):
        name = row.row.name
        models = _per_run(row, results, "disentanglement", disentanglement)
        if not models or len(models) < stored.get(name, {"seeds": 0})["seeds"]:
            continue
        columns = [disentanglement_columns(found) for found in models]
        figures = {title: MeanStd.of([values[title] for values in columns]) for title in columns[0]}
        stored = stored | {name: {"seeds": len(models), "columns": figures}}
        probed = [found["probes"] for found in models if "probes" in found]
        if name == experiment.reference and probed:
            probes_figure(_averaged(probed), results.figure("probes"))
    results.measured["disentanglement"] = stored


def disentanglement_columns(found: dict[str, Any]) -> dict[str, float | None]:
    """The columns of the disentanglement table for one model (`probes.disentanglement`); None if not measurable."""
    probed = found.get("probes")
    columns: dict[str, float | None] = {}
    for kind, other in (("clothing", "identity"), ("identity", "clothing")):
        for branch in (other, kind):
            gain = None if probed is None else 100 * gain_over_chance(probed, f"{branch} embedding", kind)
            columns[f"{kind} from {branch} embedding"] = gain
        columns[f"{kind} leakage, embeddings"] = None if probed is None else leak(probed, "embedding", kind)
    for kind, branch in (("clothing", "f_id"), ("identity", "f_clo")):
        columns[f"{kind} leakage into {branch}"] = None if probed is None else leak(probed, "features", kind)
    columns["HSIC"] = found["hsic"]
    for title, protocol in ((CHANGING, "clothes_changing"), (SAME, "same_clothes")):
        columns[title] = 100 * found[protocol]["mAP"] if protocol in found else None
    return columns


def _averaged(probed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Averages the results of `probe_branches` over seeds."""
    mean: dict[str, Any] = {}
    for key, value in probed[0].items():
        parts = [found[key] for found in probed]
        mean[key] = _averaged(parts) if isinstance(value, dict) else float(np.mean(parts))
    return mean


def _measure_efficiency(experiment: Experiment, results: Results) -> None:
    """Measures the cost of the fusion blocks once per study, on the device that writes the first report."""
    if "efficiency" not in results.measured:
        results.measured["efficiency"] = [
            costs
            for row in results.rows(experiment)
            for costs in measure_head(row.row.name, row.runs[0].settings["model"])
        ]


def _draw_gates(experiment: Experiment, results: Results) -> None:
    (row,) = results.rows(experiment)
    if files := _feature_files(row, results):
        features = Features(files[0]).branches("test")
        gates_figure(features, results.figure("gates"))
        gates = {"identity": features.gate}
        gates["image"] = None if features.fusion_gate is None else features.fusion_gate[:, 0]
        results.measured["gates"] = {
            name: [float(gate.mean()), float(gate.std())] for name, gate in gates.items() if gate is not None
        }


def _draw_tsne(experiment: Experiment, results: Results) -> None:
    files = [_feature_files(row, results) for row in results.rows(experiment)]
    if all(files):
        entangled, decoupled = (Features(found[0]).branches("test") for found in files)
        tsne_figure(entangled.identity_embeds, decoupled, entangled.person_ids, results.figure("tsne"))


def _measure_calibration(experiment: Experiment, results: Results) -> None:
    (row,) = results.rows(experiment)
    found = _per_run(row, results, "calibration", calibration_of)
    if found and found[0]["bins"]:
        draw_calibration(found[0]["bins"], results.figure("calibration"))
        results.measured["calibration"] = {
            name: MeanStd.of([100 * run[name] for run in found if name in run])
            for name in ("absent_found", "absent_false")
        }


def calibration_of(features: Features) -> dict[str, Any]:
    """Calibrates on the validation split; returns `absence_metrics` and, as `bins`, `reliability` of the test split."""
    calibration, test, beta = calibrate(features.split("validation")), features.split("test"), features.clothing_weight
    return {"bins": reliability(test, calibration, beta)} | absence_metrics(test, calibration, beta)


def _copy_examples(experiment: Experiment, results: Results) -> None:
    """Copies the sheets that the first finished run drew, at a size suited to a web page."""
    for row in results.rows(experiment):
        for run in row.runs:
            folder = run.folder(results.output_dir) / "examples"
            if (folder / "attention.png").is_file():
                for name in ("retrieval", "attention"):
                    compress_png(folder / f"{name}.png", results.figure(name), EXAMPLES_WIDTH)
                return


def _feature_files(row: RowResult, results: Results) -> list[Path]:
    """The feature files of the finished runs of a row."""
    folders = [run.folder(results.output_dir) for run in row.runs if results.finished(run.key) is not None]
    return [folder / "features.npz" for folder in folders if (folder / "features.npz").is_file()]


def _per_run(row: RowResult, results: Results, name: str, measure_run: Callable[[Features], Any]) -> list[Any]:
    """Measures the features of each finished run; the result is cached beside the features."""
    found = []
    for file in _feature_files(row, results):
        cache = file.with_name(f"{MEASURED}{name}.json")
        if not cache.is_file():
            write_json(cache, measure_run(Features(file)))
        found.append(json.loads(cache.read_text(encoding="utf-8")))
    return found


_MEASURES: dict[str, Callable[[Experiment, Results], None]] = {
    "beta": _measure_beta,
    "disentanglement": _measure_disentanglement,
    "efficiency": _measure_efficiency,
    "gates": _draw_gates,
    "tsne": _draw_tsne,
    "calibration": _measure_calibration,
    "examples": _copy_examples,
}
