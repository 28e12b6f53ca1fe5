"""Loads the splits of one or more data sets and trains on them, for `run_t2i_reid.py` and for the experiments."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.files import usable_cores
from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.collation import described_rows
from modeling_bdam.training.model_card import CardData
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments
from modeling_bdam.training.sampler import CaptionPairs, KeyedDataset
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import DUAL_ENCODER_FIELDS, BDAMTrainingArguments

from .batches.augmentation import AugmentationConfig
from .batches.collator import RetrievalCollator, TrainCollator
from .batches.tokenizer import train_tokenizer
from .benchmarks.concatenation import concatenate_person_datasets
from .benchmarks.loading import license_of, load_person_dataset
from .images import with_image_files
from .schema import PERSON_FEATURES

logger = logging.get_logger(__name__)
TIMED_STEPS = 40  # of the plain dual encoder, for `--compare_by time`


def load_splits(data_args: DataArguments, args: BDAMTrainingArguments) -> DatasetDict:
    """Loads the splits `train` and `validation` of all data sets joined, and the test splits separately.

    A single test split is called `test`; of several, each is called `test_NAME`.

    Raises:
        ValueError, OSError: a data set cannot be read, or a split that the run needs is missing or has no texts.
    """
    with args.main_process_first(desc="preparing the data"):
        trained = _load_all(data_args, "")
        evaluated = _load_all(data_args, "eval_") if data_args.eval_dataset_name else trained
    splits = DatasetDict()
    if args.do_train:
        joined = concatenate_person_datasets(list(trained.values()), list(trained))
        for name in ("train", "validation"):
            if not joined.get(name):
                raise ValueError(f"--dataset_name {' '.join(data_args.dataset_name)}: there is no {name} split")
        splits["train"] = trainable_rows(joined["train"])
        splits["validation"] = with_queries(joined["validation"], "validation")
    if args.do_eval:
        for name, parts in evaluated.items():
            if "test" not in parts:
                raise ValueError(f"data set {name} has no test split to evaluate on; it has {', '.join(parts)}")
            key = "test" if len(evaluated) == 1 else f"test_{name}"
            splits[key] = with_queries(parts["test"], f"test split of {name}")
    return splits


def _load_all(data_args: DataArguments, prefix: str) -> dict[str, DatasetDict]:
    """Loads the data sets of `--dataset_name` or, with the prefix `eval_`, of `--eval_dataset_name`, by name."""
    names: list[str] = getattr(data_args, f"{prefix}dataset_name")
    options: dict[str, list[Any]] = {}
    for option in ("data_dir", "descriptions", "outfits", "split_file"):
        values = [None if value == "-" else value for value in getattr(data_args, prefix + option)]
        if len(values) not in (0, len(names)):
            raise ValueError(
                f"--{prefix}{option} has {len(values)} values for the {len(names)} data sets of "
                f"--{prefix}dataset_name: give one value per data set, `-` for none"
            )
        options[option] = values or [None] * len(names)
    loaded: dict[str, DatasetDict] = {}
    for number, name in enumerate(names):
        key = re.sub(r"\W+", "_", name)
        while key in loaded:
            key += "_again"
        loaded[key] = load_person_dataset(
            name,
            **{option: values[number] for option, values in options.items()},
            val_people=data_args.val_people,
            skip_unreadable=data_args.skip_unreadable,
            exclude=data_args.exclude,
            follow_links=data_args.follow_links,
            cache_dir=data_args.cache_dir,
            synthetic=synthetic_size(data_args),
        )
    return loaded


def synthetic_size(data_args: DataArguments) -> dict[str, Any]:
    """Returns the arguments of `load_synthetic`: people per split and image size (height, width)."""
    return {
        "num_train_people": data_args.synthetic_people,
        "num_val_people": data_args.synthetic_val_people,
        "num_test_people": data_args.synthetic_test_people,
        "image_size": (data_args.image_height, data_args.image_width),
    }


def trainable_rows(rows: Dataset) -> Dataset:
    """Selects the rows with captions or with both descriptions.

    The sampler makes batches of rows with descriptions and of rows without them, since the losses on descriptions need
    every row of a batch.

    Raises:
        ValueError: no row has a text.
    """
    described = np.array(described_rows(rows), dtype=bool)
    captions = rows.with_format("arrow")["captions"][:]
    captioned = pc.fill_null(pc.list_value_length(captions), 0).to_numpy() > 0
    kept = np.flatnonzero(described | captioned)
    if not len(kept):
        raise ValueError("no training image has a caption or a description: give --descriptions (`bdam describe`)")
    if len(kept) < len(rows):
        logger.warning(
            f"{len(rows) - len(kept)} of {len(rows)} training images have neither a caption nor both descriptions, and "
            "are left out: finish the descriptions file"
        )
    missing = len(kept) - described.sum()
    if missing == len(kept):
        logger.warning(
            "no training image has descriptions, so only captions are used: identity and clothing are not decoupled, "
            "and there is no described gallery; --objective plain learns faster from captions. `bdam describe` writes "
            "descriptions; --descriptions reads them"
        )
    elif missing:
        logger.warning(
            f"{missing} of {len(kept)} training images have no descriptions: they are trained on their captions, in "
            "batches of their own. `bdam describe` writes the missing descriptions"
        )
    return rows.select(kept)


def with_queries(rows: Dataset, name: str) -> Dataset:
    """Returns the rows of a split with text queries: the captions or, if the split has none, the descriptions.

    Args:
        name: of the split, for messages.

    Raises:
        ValueError: no row has a text.
    """
    if any(rows["captions"]):
        return rows
    texts = [
        [" ".join(filter(None, pair))] if any(pair) else []
        for pair in zip(rows["identity_description"], rows["clothing_description"], strict=True)
    ]
    if not any(texts):
        raise ValueError(f"{name}: no image has a caption or a description, so there is no query to search with")
    logger.warning(f"{name}: there are no captions, so the queries are the descriptions")
    return rows.remove_columns("captions").add_column("captions", texts, feature=PERSON_FEATURES["captions"])


def tokenizer_of(splits: DatasetDict) -> Callable[[int, int], PreTrainedTokenizerFast]:
    """Returns a function that trains a tokenizer on the texts of the training split, for `build_model`."""

    def train(vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
        rows = splits["train"]
        texts = [caption for captions in rows["captions"] for caption in captions]
        texts += [text for kind in ("identity", "clothing") for text in rows[f"{kind}_description"] if text]
        return train_tokenizer(texts, vocab_size, max_length)

    return train


def use_every_core(args: BDAMTrainingArguments) -> None:
    """Sets the threads of a CPU run to its share of the cores; `accelerate launch` sets one thread per process."""
    if args.device.type == "cpu":
        torch.set_num_threads(usable_cores())


def new_trainer(
    model: BDAMModel,
    args: BDAMTrainingArguments,
    processor: BDAMProcessor,
    data_args: DataArguments,
    splits: DatasetDict,
) -> BDAMTrainer:
    """Returns the trainer of a model, with the augmentation and the collators that the arguments set."""
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO  # there is no validation split
    rows: Any = with_image_files(splits["train"]) if args.do_train else None
    if args.do_train and data_args.train_unit == "caption":
        rows = CaptionPairs(rows)
    names = (f"{augmented}_probability" for augmented in ("flip", "crop", "erase", "word_mask"))
    augmentation = AugmentationConfig(**{name: getattr(data_args, name) for name in names})
    return BDAMTrainer(
        model=model,
        args=args,
        data_collator=TrainCollator(
            processor,
            augmentation,
            one_text=args.train_only == "matching"
            or (args.objective != "decoupled" and data_args.plain_texts == "all"),
        ),
        retrieval_collator=RetrievalCollator(processor),
        train_dataset=rows,
        eval_dataset=with_image_files(splits["validation"]) if args.do_train else None,
        processing_class=processor,
    )


def chooses_beta(model_args: ModelArguments, args: BDAMTrainingArguments) -> bool:
    """Returns whether β is chosen on the validation split: not if the command line sets it, and not for a baseline."""
    is_set = "clothing_weight" in (model_args.config_overrides or "")
    return model_args.choose_clothing_weight and not is_set and args.objective == "decoupled"


def train_and_save(trainer: BDAMTrainer, checkpoint: str | None, choose_beta: bool = False) -> dict[str, float]:
    """Trains, calibrates and saves the best checkpoint by the validation metric, and returns the training metrics.

    With `choose_beta`, β is chosen on the validation split and saved in the config. With `matching_steps`, a second
    stage trains the matching head, and chooses λ and K on the validation split.
    """
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if choose_beta:
        trainer.choose_clothing_weight()
    trainer.calibrate()
    if trainer.args.matching_steps:
        train_matching(trainer)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics, combined=False)
    trainer.save_state()
    return result.metrics


def train_matching(trainer: BDAMTrainer) -> None:
    """Trains the matching head of a trained model on hard pairs; all other weights stay unchanged."""
    args = copy.deepcopy(trainer.args)
    args.train_only, args.max_steps, args.push_to_hub = "matching", args.matching_steps, False
    args.eval_strategy, args.save_strategy, args.load_best_model_at_end = IntervalStrategy.NO, SaveStrategy.NO, False
    args.output_dir = str(Path(args.output_dir) / "matching")
    collator = copy.copy(trainer.data_collator)
    assert isinstance(collator, TrainCollator) and isinstance(trainer.train_dataset, KeyedDataset)
    collator.one_text = True
    BDAMTrainer(
        model=trainer.accelerator.unwrap_model(trainer.model),
        args=args,
        data_collator=collator,
        retrieval_collator=trainer.retrieval_collator,
        train_dataset=trainer.train_dataset.rows,
        processing_class=trainer.processing_class,
    ).train()
    trainer.choose_matching()


def train_plain(
    trainer: BDAMTrainer, model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict
) -> BDAMTrainer:
    """Trains the baseline of a model, a plain dual encoder: same towers and texts, but only InfoNCE.

    With `--compare_by time`, its number of steps is the time of the model's training over the time of a plain step,
    which a few steps measure.

    Args:
        trainer: the trainer of the model; its arguments are copied, with the output folder `plain` inside its own.

    Returns:
        The trainer of the baseline after training.
    """
    # Arguments: no BDAM losses, no identity-balanced batches
    args = copy.deepcopy(trainer.args)
    args.do_train, args.objective, args.images_per_person, args.gradnorm = True, "plain", 1, False
    args.output_dir, args.push_to_hub, args.matching_steps = str(Path(args.output_dir) / "plain"), False, 0
    checkpoint = find_checkpoint(args)
    if model_args.compare_by == "time":
        probe = copy.deepcopy(args)
        probe.max_steps, probe.eval_strategy, probe.save_strategy = TIMED_STEPS, IntervalStrategy.NO, SaveStrategy.NO
        probe.load_best_model_at_end, probe.logging_strategy, probe.logging_steps = False, IntervalStrategy.STEPS, 2
        timed = plain_trainer(trainer, probe, model_args, data_args, splits)
        timed.train()
        _set_steps(args, trainer.state.max_steps, trainer.seconds_per_step() / timed.seconds_per_step())
    plain = plain_trainer(trainer, args, model_args, data_args, splits)
    train_and_save(plain, checkpoint)
    return plain


def _set_steps(args: BDAMTrainingArguments, steps: int, ratio: float) -> None:
    """Sets the number of steps to `steps * ratio`, with as many evaluations and checkpoints as before."""
    args.max_steps = round(steps * ratio)
    for kind in ("eval", "save"):
        every = getattr(args, f"{kind}_steps")
        if getattr(args, f"{kind}_strategy") == "steps" and every:
            count = max(1, round(1 / every if every < 1 else steps / every))
            args.max_steps -= args.max_steps % count
            setattr(args, f"{kind}_steps", args.max_steps // count)


def plain_trainer(
    trainer: BDAMTrainer,
    args: BDAMTrainingArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    splits: DatasetDict,
) -> BDAMTrainer:
    """Returns the trainer of a new model with the same towers, without decoupling and fusion."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    fields = config.to_dict() | DUAL_ENCODER_FIELDS
    set_seed(args.seed)
    vision, text = model_args.vision_model_name_or_path, model_args.text_model_name_or_path
    if vision is not None and text is not None:
        fields = {name: value for name, value in fields.items() if name not in BDAMConfig.sub_configs_defaults}
        model = BDAMModel.from_vision_text_pretrained(vision, text, **fields)
    else:
        model = BDAMModel(BDAMConfig(**fields))
    model.set_attn_implementation(config._attn_implementation)
    processor = trainer.processing_class
    assert isinstance(processor, BDAMProcessor)
    return new_trainer(model, args, processor, data_args, splits)


def card_data(
    model_args: ModelArguments, data_args: DataArguments, args: BDAMTrainingArguments, splits: DatasetDict
) -> CardData:
    """Returns the names and licenses of the data sets and the pretrained towers, for the model card."""
    evaluated = data_args.eval_dataset_name or data_args.dataset_name
    prefixes = [name.replace("test", "eval", 1) for name in test_splits(splits)]
    checkpoint = model_args.model_name_or_path
    towers = [model_args.vision_model_name_or_path, model_args.text_model_name_or_path]
    bases = towers if checkpoint is None else [checkpoint]
    return CardData(
        trained_on={name: license_of(name) for name in data_args.dataset_name} if args.do_train else {},
        evaluated_on=dict(zip(prefixes, evaluated, strict=False)),  # without --do_eval there are no prefixes
        base_models=list(dict.fromkeys(base for base in bases if base is not None and not Path(base).is_dir())),
    )


def test_splits(splits: DatasetDict) -> list[str]:
    """Returns the names of the test splits, in the order of the data sets."""
    return [name for name in splits if name.startswith("test")]
