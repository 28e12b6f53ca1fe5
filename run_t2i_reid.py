"""Train and evaluate text-to-image person re-identification.

    accelerate launch run_t2i_reid.py                                  tiny model, synthetic pedestrians, all of it
    accelerate launch run_t2i_reid.py --config paper --do_train        the paper's towers and settings
    accelerate launch run_t2i_reid.py --do_eval --model_name_or_path outputs/tiny

`--config` names a preset (tiny, paper, clip) or a JSON file; flags override it. Without `--do_train` and `--do_eval`,
both are done. The output folder gets the model and its processor, `eval_results.json`, `all_results.json`,
`retrieval.png`, `calibration.png` and a model card, `README.md`; with `--push_to_hub` they go to the Hub as well. An
interrupted run resumes from its last checkpoint.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from data_pipeline import UnreadableImageError, describe_person, with_image_files
from data_pipeline.offline import go_offline_if_unreachable
from data_pipeline.sheets.calibration_plot import draw_calibration
from data_pipeline.sheets.retrieval_sheet import draw_retrieval
from data_pipeline.synthetic.dataset import SYNTHETIC_SETS
from data_pipeline.training import (
    card_data,
    chooses_beta,
    load_splits,
    new_trainer,
    test_splits,
    tokenizer_of,
    train_and_save,
    train_plain,
    use_every_core,
)
from modeling_bdam.evaluation.calibration import reliability
from modeling_bdam.evaluation.group_metrics import Groups, rank1_by_group
from modeling_bdam.evaluation.protocols import EncodedSplit, chance_metrics
from modeling_bdam.evaluation.table import results_table
from modeling_bdam.files import write_json
from modeling_bdam.training.build import build_model, choose_trained_weights
from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.console import quiet_libraries
from modeling_bdam.training.gathering import end_process_group
from modeling_bdam.training.logged_pictures import log_picture
from modeling_bdam.training.model_card import SplitSize
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments, parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer, TrainingStoppedError

BASELINE_NAMES = {"plain": "plain dual encoder", "sdm": "SDM", "irra": "IRRA", "rde": "RDE", "tbps": "TBPS-CLIP"}


def main(argv: list[str] | None = None) -> None:
    """Runs the command; an error in its input ends it with one line."""
    quiet_libraries()
    try:
        # Arguments
        model_args, data_args, args, model_fields = parse_arguments(argv)
        if model_args.compare_plain and not args.do_train:
            raise ValueError("--compare_plain trains the plain dual encoder beside the model: add --do_train")
        checkpoint = find_checkpoint(args) if args.do_train else None
        args.run_name = args.run_name or Path(args.output_dir).name  # a reopened logger continues the same run
        use_every_core(args)
        set_seed(args.seed)

        # Data, model, trainer
        for name in (
            model_args.model_name_or_path,
            model_args.vision_model_name_or_path,
            model_args.text_model_name_or_path,
        ):
            if name is not None:
                go_offline_if_unreachable(name)
        splits = load_splits(data_args, args)
        model, processor = build_model(model_args, data_args, model_fields, tokenizer_of(splits))
        if args.do_train:
            choose_trained_weights(model, model_args)
        trainer = new_trainer(model, args, processor, data_args, splits)
        trainer.card_data = card_data(model_args, data_args, args, splits)
        if trainer.is_world_process_zero():
            print(*(f"{name}: {SplitSize.of_rows(rows)}" for name, rows in splits.items()), sep="\n", flush=True)
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"run_t2i_reid.py: {' '.join(str(error).split())}")

    # Train, evaluate
    metrics: dict[str, Any] = {}
    try:
        if args.do_train:
            metrics |= train_and_save(trainer, checkpoint, chooses_beta(model_args, args))
        if args.do_eval:
            metrics |= evaluate(trainer, model_args, data_args, splits)
    except (TrainingStoppedError, UnreadableImageError) as error:
        sys.exit(f"run_t2i_reid.py: {error}")

    # Results, card, Hub
    if trainer.is_world_process_zero():
        trainer.save_metrics("all", metrics, combined=False)
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        files = ("model.safetensors", "README.md", "all_results.json", "eval_results.json", "*.png")
        written = [path for pattern in files for path in sorted(Path(args.output_dir).glob(pattern))]
        print("\nwritten:", *written, sep="\n  ")
    if args.push_to_hub:
        trainer.push_to_hub()


def evaluate(
    trainer: BDAMTrainer, model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict
) -> dict[str, float]:
    """Scores every test split; writes `eval_results.json` and a picture, prints a table, returns the metrics."""
    args = trainer.args
    config = trainer.accelerator.unwrap_model(trainer.model).config
    plain = train_plain(trainer, model_args, data_args, splits) if model_args.compare_plain else None
    is_baseline = args.objective != "decoupled"
    name = BASELINE_NAMES[args.objective] if is_baseline else "BDAM"
    metrics: dict[str, float] = {}
    groups: dict[str, Groups] = {}
    tables: list[str] = []
    for split_name in test_splits(splits):
        key = split_name.replace("test", "eval", 1)  # prefix of the metric names
        rows = with_image_files(splits[split_name])
        split = trainer.encode(rows)

        # Metrics of the model, the baseline and chance
        own = trainer.score(split, key)
        metrics |= own
        table = [(name, own, None if is_baseline else config.clothing_weight)]
        if plain is not None:
            baseline = plain.score(plain.encode(rows), key)
            metrics |= {f"plain_{metric}": value for metric, value in baseline.items()}
            table.append(("plain dual encoder", baseline, None))
        chance = {f"{key}_{metric}": value for metric, value in chance_metrics(split).items()}
        table.append(("chance", chance, None))
        tables.append(results_table(table, key, str(trainer.scored[key])))
        if trainer.card_data.evaluated_on[key] in SYNTHETIC_SETS:  # the only sets whose traits are known
            groups[trainer.card_data.evaluated_on[key]] = _rank1_by_trait(split, config.clothing_weight)
        trainer.log(own)

        # Picture of some searches
        if trainer.is_world_process_zero():
            picture = Path(args.output_dir) / f"{split_name.replace('test', 'retrieval', 1)}.png"
            draw_retrieval(split, rows, config.clothing_weight, picture)
            log_picture(trainer, picture.stem, picture)
            if bins := reliability(split, config.score_calibration, config.clothing_weight):
                draw_calibration(bins, picture.with_name(picture.name.replace("retrieval", "calibration", 1)))
    trainer.save_metrics("eval", {name: value for name, value in metrics.items() if not name.startswith("plain")})
    if trainer.is_world_process_zero():
        write_json(Path(args.output_dir, "group_results.json"), groups)
        print("", *tables, sep="\n")
    return metrics


def _rank1_by_trait(split: EncodedSplit, clothing_weight: float) -> Groups:
    traits = {person: asdict(describe_person(0, person).traits) for person in split.gallery_ids.tolist()}
    return rank1_by_group(split, clothing_weight, traits)


if __name__ == "__main__":
    main()
    end_process_group()
