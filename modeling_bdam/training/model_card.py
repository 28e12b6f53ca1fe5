"""Fills the model card template `hub_cards/model_card.md` with the results and settings of a run."""

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from transformers import PreTrainedConfig, TrainerState
from transformers.trainer_utils import IntervalStrategy

from ..evaluation.table import IDENTITY_ONLY, METRICS, PROTOCOLS
from ..files import usable_cores, write_text
from ..objective_bdam import TASKS
from .training_args import BDAMTrainingArguments

TEMPLATE = Path(__file__).parents[2] / "hub_cards" / "model_card.md"
TAGS = ["bdam", "person-re-identification", "text-to-image-retrieval"]
COUNT = "unmatched_queries"


@dataclass
class CardData:
    """Names and licenses of the data, which the trainer does not know.

    Attributes:
        trained_on: license terms of each data set of the training split, by its `--dataset_name`.
        evaluated_on: data set of each test split, by the prefix of its metrics: `{"eval": "synthetic"}`.
        base_models: the pretrained towers, as Hub ids.
    """

    trained_on: dict[str, str] = field(default_factory=dict)
    evaluated_on: dict[str, str] = field(default_factory=dict)
    base_models: list[str] = field(default_factory=list)


@dataclass
class SplitSize:
    """Number of people, images and captions of a split."""

    people: int
    images: int
    captions: int

    def __str__(self) -> str:
        return f"{self.captions} captions, {self.images} images of {self.people} people"

    @classmethod
    def of_rows(cls, rows: Any) -> "SplitSize":
        """Counts rows of the common schema."""
        return cls(len(set(rows["person_id"])), len(rows), sum(len(texts) for texts in rows["captions"]))


@dataclass
class RunFacts:
    """Everything a card reports about a run.

    Attributes:
        parameters, trained_parameters: number of parameters, without LoRA, and of those with a gradient.
        train_size, test_sizes: size of the training split, and of each test split by the prefix of its metrics.
    """

    args: BDAMTrainingArguments
    state: TrainerState
    data: CardData
    config: PreTrainedConfig
    parameters: int
    trained_parameters: int
    train_size: SplitSize | None
    test_sizes: dict[str, SplitSize]


def write_model_card(
    run: RunFacts, name: str | None = None, license: str | None = None, tags: list[str] | None = None
) -> None:
    """Writes `README.md` into the output folder, from the results, pictures and arguments of the run.

    Metrics of data sets on the Hub are also written to `.eval_results/bdam.yaml`, for the leaderboards of the Hub.

    Args:
        run: everything that the card reports.
        name: model name; by default the last part of the repository name or of the folder.
        license: Hub identifier; by default Apache-2.0 for a model that was trained on synthetic data sets only, and
            none otherwise.
        tags: in addition to the tags of every card.
    """
    args, data = run.args, run.data
    folder = Path(args.output_dir)
    repository = args.hub_model_id or folder.absolute().name
    metrics = _read(folder / "eval_results.json")
    results = eval_results(metrics, data.evaluated_on, run.config.clothing_weight, args.seed)
    is_drawn = {name.split("-")[0] for name in data.trained_on} == {"synthetic"}
    if license is None and is_drawn and not data.base_models:
        license = "apache-2.0"
    name = name or repository.rpartition("/")[2]
    card_data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=[*TAGS, *(tag for tag in tags or [] if tag not in TAGS)],
        base_model=data.base_models or None,
        datasets=[name for name in {*data.trained_on, *data.evaluated_on.values()} if "/" in name] or None,
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        name=name,
        repository=repository,
        config=run.config,
        parameters=run.parameters,
        rows=_rows(results),
        sizes={data.evaluated_on.get(prefix, prefix): size for prefix, size in run.test_sizes.items()},
        groups=_read(folder / "group_results.json"),
        base_models=data.base_models,
        pictures=sorted(path.name for path in folder.glob("retrieval*.png")),
        trained_on=list(data.trained_on.items()),
        training=_training(run) if args.do_train else None,
        selection=_selection(run),
    )
    write_text(folder / "README.md", str(card))
    on_hub = [result for result in results if "/" in result.dataset_type and result.metric_type == "rank1"]
    if on_hub:
        entries = [
            EvalResultEntry(result.dataset_type, task_id="default", value=result.metric_value, notes=result.metric_name)
            for result in on_hub
        ]
        (folder / ".eval_results").mkdir(exist_ok=True)
        write_text(folder / ".eval_results" / "bdam.yaml", yaml.safe_dump(eval_result_entries_to_yaml(entries)))


def eval_results(
    metrics: dict[str, float], evaluated_on: dict[str, str], clothing_weight: float, seed: int
) -> list[EvalResult]:
    """Converts metrics to `EvalResult` objects of the Hub, one per data set, protocol and metric.

    Args:
        metrics: `eval_rank1`, `eval_described_mAP`, ...; with several test splits `eval_NAME_rank1`. Other values, such
            as running times, are ignored.
        evaluated_on: see `CardData`.
        clothing_weight: β of the standard and described gallery protocols.
        seed: seed of the run.
    """
    results = []
    for key, value in metrics.items():
        figure = next((figure for figure in [*METRICS, COUNT] if key.endswith(f"_{figure}")), None)
        if figure is None:
            continue
        start = key.removesuffix(f"_{figure}")
        short = next((short for short in PROTOCOLS if short and f"{start}_".endswith(f"_{short}")), "")
        prefix, protocol = f"{start}_".removesuffix(short).removesuffix("_"), PROTOCOLS[short]
        name = evaluated_on.get(prefix, prefix.removeprefix("eval_")).removeprefix("hub:")
        beta = 0.0 if protocol in IDENTITY_ONLY else clothing_weight
        results.append(
            EvalResult(
                task_type="zero-shot-image-classification",
                task_name="Text-to-image person re-identification",
                dataset_type=name,
                dataset_name=name,
                dataset_config=protocol,
                dataset_split="test",
                metric_type=figure,
                metric_name=f"{METRICS.get(figure, 'Queries without a match')}, {protocol}",
                metric_value=value,
                metric_args={"clothing_weight": beta, "seed": seed},
            )
        )
    return results


def _rows(results: list[EvalResult]) -> list[dict[str, Any]]:
    """One table row per data set and protocol, in per cent."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        assert result.dataset_config is not None and result.metric_args is not None
        row = rows.setdefault(
            (result.dataset_name, result.dataset_config),
            {
                "data": result.dataset_name,
                "protocol": result.dataset_config,
                "beta": f"{result.metric_args['clothing_weight']:g}",
                "seed": result.metric_args["seed"],
                "figures": dict.fromkeys(METRICS.values(), ""),
            },
        )
        if result.metric_type in METRICS:
            row["figures"][METRICS[result.metric_type]] = f"{100 * result.metric_value:.2f}"
    order = list(PROTOCOLS.values())
    return sorted(rows.values(), key=lambda row: (row["data"], order.index(row["protocol"])))


def _training(run: RunFacts) -> dict[str, Any]:
    """Data, settings, hardware and time of a training."""
    args = run.args
    results = _read(Path(args.output_dir) / "train_results.json")
    tasks = [task for task in TASKS if task not in args.left_out_tasks]
    balance = "GradNorm" if args.gradnorm else "learned uncertainty" if args.uncertainty_weighting else "fixed weights"
    if args.objective != "decoupled":
        logged = (name for entry in run.state.log_history for name in entry if name.startswith("loss_"))
        tasks, balance = [name.removeprefix("loss_") for name in dict.fromkeys(logged)], "fixed weights"
    fixed = args.task_weights or {}
    assert isinstance(fixed, dict)  # parsed by the arguments
    seconds = results.get("train_runtime")
    return {
        "size": run.train_size,
        "settings": {
            "objective": args.objective,
            "tasks": ", ".join(tasks),
            "task weights": ", ".join([*(f"{task} {weight:g}" for task, weight in fixed.items()), balance]),
            "batch": f"{args.train_batch_size * args.world_size * args.gradient_accumulation_steps} images, "
            f"{args.images_per_person} a person",
            "steps": run.state.global_step,
            "trained parameters": f"{run.trained_parameters:,}",
            "learning rate": f"{args.learning_rate:g}, {str(args.lr_scheduler_type).rpartition('.')[2].lower()}",
            "weight decay": f"{args.weight_decay:g}",
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            "seed": args.seed,
        },
        "hardware": _hardware(args.world_size, args.device),
        "time": None if seconds is None else f"{seconds:.0f} seconds",
        "software": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def _selection(run: RunFacts) -> str | None:
    """Describes how the checkpoint was selected, in words."""
    state, args = run.state, run.args
    if state.best_metric is None or args.eval_strategy == IntervalStrategy.NO or not args.load_best_model_at_end:
        return None
    figure = str(args.metric_for_best_model).removeprefix("eval_")
    best = f"{100 * state.best_metric:.2f}"
    return f"step {state.best_global_step}, with the best {figure} on the validation split ({best} per cent)"


def _hardware(processes: int, device: torch.device) -> str:
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    return f"{usable_cores() * processes} {platform.machine()} CPU cores, {processes} process{'es' * (processes > 1)}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


__all__ = ["CardData", "RunFacts", "SplitSize", "eval_results", "write_model_card"]
