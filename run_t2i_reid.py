"""Train and evaluate text-to-image person re-identification.

    accelerate launch run_t2i_reid.py                                  tiny model, synthetic pedestrians, all of it
    accelerate launch run_t2i_reid.py --config paper --do_train        the paper's towers and settings
    accelerate launch run_t2i_reid.py --do_eval --model_name_or_path outputs/tiny

`--config` names a preset (tiny, paper, clip) or a JSON file; the command line overrides what it says. Without
`--do_train` and `--do_eval`, both are done. The output folder gets the model and its processor, `eval_results.json`,
`all_results.json`, `retrieval.png` and a model card, `README.md`; with `--push_to_hub` they go to the Hub as well. A
run that was stopped goes on from its last checkpoint.
"""

import copy
import json
import os
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from data_pipeline import (
    PERSON_FEATURES,
    UnreadableImageError,
    concatenate_person_datasets,
    load_person_dataset,
    load_synthetic,
    with_image_files,
)
from data_pipeline.batches.augmentation import AugmentationConfig
from data_pipeline.batches.collator import RetrievalCollator, TrainCollator
from data_pipeline.batches.tokenizer import train_tokenizer
from data_pipeline.sheets.retrieval_sheet import draw_retrieval
from data_pipeline.synthetic.people import describe_person
from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.evaluation.group_metrics import Groups, rank1_by_group
from modeling_bdam.evaluation.protocols import EncodedSplit, chance_metrics
from modeling_bdam.licences import licence_of
from modeling_bdam.training.build import build_model, choose_trained_weights
from modeling_bdam.training.logged_pictures import log_picture
from modeling_bdam.training.model_card import CardData
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments, parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer, NonFiniteLossError
from modeling_bdam.training.training_args import BDAMTrainingArguments

logger = logging.get_logger("run_t2i_reid")
FIGURES = ("rank1", "rank5", "rank10", "mAP", "mINP")
PROTOCOLS = {"": "standard", "described_": "described gallery", "clothes_changing_": "clothes-changing"}
MODELS = {"BDAM": "BDAM", "plain": "plain dual encoder", "chance": "chance"}


def main(argv: list[str] | None = None) -> None:
    """Runs the command; a mistake in its input ends it with one line."""
    try:
        model_args, data_args, args, model_fields = parse_arguments(argv)
        if model_args.compare_plain and not args.do_train:
            raise ValueError("--compare_plain trains the plain dual encoder beside the model: add --do_train")
        checkpoint = find_checkpoint(args) if args.do_train else None
        use_every_core(args)
        args.run_name = args.run_name or Path(args.output_dir).name  # loggers that are opened again find the same run
        set_seed(args.seed)
        splits = load_splits(data_args, args)
        new_tokenizer = partial(train_tokenizer, texts_of(splits["train"]) if args.do_train else [])
        model, processor = build_model(model_args, data_args, model_fields, new_tokenizer)
        if args.do_train:
            choose_trained_weights(model, model_args)
        trainer = new_trainer(model, args, processor, data_args, splits)
        trainer.card_data = name_data(model_args, data_args, args, splits)
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"run_t2i_reid.py: {' '.join(str(error).split())}")

    metrics: dict[str, Any] = {}
    try:
        if args.do_train:
            metrics |= train(trainer, checkpoint)
        if args.do_eval:
            metrics |= evaluate(trainer, model_args, data_args, splits)
    except (NonFiniteLossError, UnreadableImageError) as error:
        sys.exit(f"run_t2i_reid.py: {error}")
    if trainer.is_world_process_zero():
        trainer.save_metrics("all", metrics, combined=False)
    trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # gloo's threads must not outlive the interpreter


def evaluate(
    trainer: BDAMTrainer, model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict
) -> dict[str, float]:
    """Figures of every test split: written to `eval_results.json`, printed as a table, shown as a picture."""
    args = trainer.args
    model = trainer.accelerator.unwrap_model(trainer.model)
    plain = None
    if model_args.compare_plain:
        assert isinstance(trainer.processing_class, BDAMProcessor)
        plain = train_plain(model_args, model.config, args, trainer.processing_class, data_args, splits)
    metrics: dict[str, float] = {}
    groups: dict[str, Groups] = {}
    tables: list[str] = []
    for name in test_splits(splits):
        key = name.replace("test", "eval", 1)
        test_rows = with_image_files(splits[name])
        split = trainer.encode(test_rows)
        rows = [("plain" if args.objective == "plain" else "BDAM", trainer.score(split, key))]
        metrics |= rows[0][1]
        if plain is not None:
            rows.append(("plain", plain.score(plain.encode(test_rows), key)))
            metrics |= {f"plain_{figure}": value for figure, value in rows[1][1].items()}
        rows.append(("chance", {f"{key}_{figure}": value for figure, value in chance_metrics(split).items()}))
        tables.append(results_table(rows, key, model.config.clothing_weight, split))
        data = trainer.card_data.evaluated_on[key]
        if data == "synthetic":  # the one set that says who is shown
            traits = {person: asdict(describe_person(0, person).traits) for person in split.gallery_ids.tolist()}
            groups[data] = rank1_by_group(split, model.config.clothing_weight, traits)
        trainer.log(rows[0][1])
        if trainer.is_world_process_zero():
            picture = Path(args.output_dir) / f"{name.replace('test', 'retrieval', 1)}.png"
            draw_retrieval(split, test_rows, model.config.clothing_weight, picture)
            log_picture(trainer, picture.stem, picture)
    trainer.save_metrics("eval", {name: value for name, value in metrics.items() if not name.startswith("plain")})
    if trainer.is_world_process_zero():
        Path(args.output_dir, "group_results.json").write_text(json.dumps(groups, indent=2), encoding="utf-8")
        print(*tables, sep="\n")
    return metrics


def name_data(
    model_args: ModelArguments, data_args: DataArguments, args: BDAMTrainingArguments, splits: DatasetDict
) -> CardData:
    """What the data sets and the pretrained towers are called, for the model card."""
    evaluated = data_args.eval_dataset_name or data_args.dataset_name
    prefixes = [name.replace("test", "eval", 1) for name in test_splits(splits)]  # in the order of their names
    bases = [model_args.model_name_or_path, model_args.vision_model_name_or_path, model_args.text_model_name_or_path]
    return CardData(
        trained_on={name: licence_of(name) for name in data_args.dataset_name} if args.do_train else {},
        evaluated_on=dict(zip(prefixes, evaluated, strict=False)),  # without --do_eval there are no prefixes
        base_models=list(dict.fromkeys(base for base in bases if base is not None and not Path(base).is_dir())),
    )


def test_splits(splits: DatasetDict) -> list[str]:
    """The names of the splits to evaluate on."""
    return [name for name in splits if name.startswith("test")]


def use_every_core(args: BDAMTrainingArguments) -> None:
    """On a CPU, shares its cores out over the processes: `accelerate launch` leaves each of them one thread."""
    if args.device.type == "cpu":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))


def find_checkpoint(args: BDAMTrainingArguments) -> str | None:
    """The checkpoint that an interrupted run goes on from, if there is one.

    Raises:
        ValueError: the output folder holds a finished run, or the checkpoint asked for is none.
    """
    folder = Path(args.output_dir)
    if (folder / "all_results.json").exists():
        raise ValueError(
            f"{folder} already holds a finished run: choose another --output_dir, or delete that folder to train anew"
        )
    if args.resume_from_checkpoint is not None:
        if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
            raise ValueError(f"--resume_from_checkpoint {args.resume_from_checkpoint}: no checkpoint is there")
        return args.resume_from_checkpoint
    # The trainer's state is written last: a checkpoint without it was cut off in the writing.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if path.stat().st_size]
    if not complete:
        return None
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    logger.warning(f"{folder} holds an unfinished run: going on from {newest.name}")
    return str(newest)


def load_splits(data_args: DataArguments, args: BDAMTrainingArguments) -> DatasetDict:
    """The splits train and validation of all data sets together, and the test splits to evaluate on.

    One test split is called `test`; of several, each is called `test_NAME`.

    Raises:
        ValueError, OSError: a data set that cannot be read, or has no split or no text for what is to be done with it.
    """
    with args.main_process_first(desc="preparing the data"):
        trained = _load_all(data_args, "")
        evaluated = _load_all(data_args, "eval_") if data_args.eval_dataset_name else trained
    splits = DatasetDict()
    if args.do_train:
        splits = concatenate_person_datasets(list(trained.values()), list(trained))
        splits = DatasetDict({name: splits[name] for name in ("train", "validation") if name in splits})
        for name in ("train", "validation"):
            if name not in splits or len(splits[name]) == 0:
                raise ValueError(f"--dataset_name {' '.join(data_args.dataset_name)}: there is no {name} split")
        splits["train"] = trainable_rows(splits["train"])
        splits["validation"] = with_queries(splits["validation"], "validation")
    if args.do_eval:
        for name, parts in evaluated.items():
            if "test" not in parts:
                raise ValueError(f"data set {name} has no test split to evaluate on; it has {', '.join(parts)}")
            key = "test" if len(evaluated) == 1 else f"test_{name}"
            splits[key] = with_queries(parts["test"], f"test split of {name}")
    return splits


def _load_all(data_args: DataArguments, prefix: str) -> dict[str, DatasetDict]:
    """The data sets of `--dataset_name` or, with the prefix `eval_`, of `--eval_dataset_name`, by name."""
    names: list[str] = getattr(data_args, f"{prefix}dataset_name")
    files: dict[str, list[str | None]] = {}
    for option in ("data_dir", "descriptions", "outfits", "split_file"):
        given = [None if value == "-" else value for value in getattr(data_args, prefix + option)]
        if len(given) not in (0, len(names)):
            raise ValueError(
                f"--{prefix}{option} has {len(given)} values for the {len(names)} data sets of "
                f"--{prefix}dataset_name: give one each, `-` where there is none"
            )
        files[option] = given or [None] * len(names)
    loaded: dict[str, DatasetDict] = {}
    for name, data_dir, descriptions, outfits, split_file in zip(names, *files.values(), strict=True):
        key = re.sub(r"\W+", "_", name)
        while key in loaded:
            key += "_again"
        if name == "synthetic":
            loaded[key] = load_synthetic(
                num_train_people=data_args.synthetic_people,
                num_val_people=data_args.synthetic_val_people,
                num_test_people=data_args.synthetic_test_people,
                image_size=(data_args.image_height, data_args.image_width),
                cache_dir=data_args.cache_dir,
            )
        else:
            loaded[key] = load_person_dataset(
                name,
                data_dir,
                descriptions=descriptions,
                outfits=outfits,
                split_file=split_file,
                val_people=data_args.val_people,
                skip_unreadable=data_args.skip_unreadable,
                cache_dir=data_args.cache_dir,
            )
    return loaded


def trainable_rows(rows: Dataset) -> Dataset:
    """The rows that training can use: all or none of them have descriptions, and each has some text.

    Rows without descriptions are left out where others have them: a batch is one or the other, on every process.

    Raises:
        ValueError: no row has a text.
    """
    described = [bool(i and c) for i, c in zip(rows["identity_description"], rows["clothing_description"], strict=True)]
    if any(described):
        if not all(described):
            missing = len(described) - sum(described)
            logger.warning(
                f"{missing} of {len(described)} training images have no descriptions and are left out: finish the "
                "descriptions file, or train without one to use the captions of all"
            )
            rows = rows.select(np.flatnonzero(described))
        return rows
    logger.warning(
        "no training image has descriptions, so captions alone are trained on: clothing and identity are not told "
        "apart, and there is no described gallery. `bdam describe` writes descriptions; --descriptions reads them"
    )
    captioned = [bool(captions) for captions in rows["captions"]]
    if not any(captioned):
        raise ValueError("no training image has a caption or a description: give --descriptions (`bdam describe`)")
    return rows if all(captioned) else rows.select(np.flatnonzero(captioned))


def with_queries(rows: Dataset, what: str) -> Dataset:
    """The rows, with descriptions as the queries of a split where nobody wrote a caption.

    Raises:
        ValueError: there is no text at all.
    """
    if any(rows["captions"]):
        return rows
    texts = [
        [" ".join(filter(None, pair))] if any(pair) else []
        for pair in zip(rows["identity_description"], rows["clothing_description"], strict=True)
    ]
    if not any(texts):
        raise ValueError(f"{what}: no image has a caption or a description, so there is no query to search with")
    logger.warning(f"{what}: there are no captions, so the queries are the descriptions")
    return rows.remove_columns("captions").add_column("captions", texts, feature=PERSON_FEATURES["captions"])


def texts_of(rows: Any) -> list[str]:
    """Every caption and description of a split."""
    texts = [caption for captions in rows["captions"] for caption in captions]
    return texts + [text for kind in ("identity", "clothing") for text in rows[f"{kind}_description"] if text]


def new_trainer(
    model: BDAMModel,
    args: BDAMTrainingArguments,
    processor: BDAMProcessor,
    data_args: DataArguments,
    splits: DatasetDict,
) -> BDAMTrainer:
    """The trainer of a model on the splits."""
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO  # there is no validation split
    augmentation = AugmentationConfig(
        flip_probability=data_args.flip_probability,
        crop_probability=data_args.crop_probability,
        erase_probability=data_args.erase_probability,
        word_mask_probability=data_args.word_mask_probability,
    )
    return BDAMTrainer(
        model=model,
        args=args,
        data_collator=TrainCollator(processor, augmentation),
        retrieval_collator=RetrievalCollator(processor),
        train_dataset=with_image_files(splits["train"]) if args.do_train else None,
        eval_dataset=with_image_files(splits["validation"]) if args.do_train else None,
        processing_class=processor,
    )


def train(trainer: BDAMTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains, and saves the checkpoint that was best on the validation split."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics, combined=False)
    trainer.save_state()
    return result.metrics


def train_plain(
    model_args: ModelArguments,
    config: BDAMConfig,
    args: BDAMTrainingArguments,
    processor: BDAMProcessor,
    data_args: DataArguments,
    splits: DatasetDict,
) -> BDAMTrainer:
    """The trainer of a plain dual encoder, trained: the same towers, captions alone, InfoNCE alone, as many steps."""
    kernels = config._attn_implementation
    fields = config.to_dict() | {"use_bdam": False, "use_fusion": False, "fusion_sequence": "global"}
    fields["clothing_weight"] = 0.0
    args = copy.deepcopy(args)
    args.do_train, args.objective, args.images_per_person, args.gradnorm = True, "plain", 1, False
    args.ddp_find_unused_parameters = True
    args.output_dir = str(Path(args.output_dir) / "plain")
    args.push_to_hub = False
    set_seed(args.seed)
    vision, text = model_args.vision_model_name_or_path, model_args.text_model_name_or_path
    if vision is not None and text is not None:
        fields = {name: value for name, value in fields.items() if name not in BDAMConfig.sub_configs_defaults}
        model = BDAMModel.from_vision_text_pretrained(vision, text, **fields)
    else:
        model = BDAMModel(BDAMConfig(**fields))
    model.set_attn_implementation(kernels)
    trainer = new_trainer(model, args, processor, data_args, splits)
    train(trainer, find_checkpoint(args))
    return trainer


def results_table(
    rows: list[tuple[str, dict[str, float]]], key: str, clothing_weight: float, split: EncodedSplit
) -> str:
    """The figures of a test split whose metrics begin with `key`, per cent, with their protocols."""
    people = len(split.gallery_ids.unique())
    lines = [
        f"\n{key.replace('eval', 'test', 1)} split: {len(split.queries)} captions, {len(split.gallery)} images of "
        f"{people} people; per cent",
        f"{'model':20} {'protocol':18} {'β':>4} " + " ".join(f"{name:>7}" for name in FIGURES),
    ]
    for model, metrics in rows:
        for prefix, protocol in PROTOCOLS.items():
            if f"{key}_{prefix}rank1" not in metrics:
                continue
            beta = "" if model != "BDAM" else f"{0.0 if protocol == 'clothes-changing' else clothing_weight:g}"
            figures = " ".join(f"{100 * metrics[f'{key}_{prefix}{name}']:7.2f}" for name in FIGURES)
            lines.append(f"{MODELS[model]:20} {protocol:18} {beta:>4} {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
