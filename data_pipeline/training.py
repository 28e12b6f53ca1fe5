"""Prepares and runs a training on the splits of one or more data sets, for the command and for the experiments."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from modeling_bdam import BDAMConfig, BDAMModel, BDAMProcessor
from modeling_bdam.files import usable_cores
from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.model_card import CardData
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import BDAMTrainingArguments

from .batches.augmentation import AugmentationConfig
from .batches.collator import RetrievalCollator, TrainCollator
from .batches.tokenizer import train_tokenizer
from .benchmarks.concatenation import concatenate_person_datasets
from .benchmarks.loading import license_of, load_person_dataset
from .images import with_image_files
from .schema import PERSON_FEATURES

logger = logging.get_logger(__name__)


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
        loaded[key] = load_person_dataset(
            name,
            data_dir,
            descriptions=descriptions,
            outfits=outfits,
            split_file=split_file,
            val_people=data_args.val_people,
            skip_unreadable=data_args.skip_unreadable,
            cache_dir=data_args.cache_dir,
            synthetic=synthetic_size(data_args),
        )
    return loaded


def synthetic_size(data_args: DataArguments) -> dict[str, Any]:
    """The arguments of `load_synthetic` that the run's arguments set."""
    return {
        "num_train_people": data_args.synthetic_people,
        "num_val_people": data_args.synthetic_val_people,
        "num_test_people": data_args.synthetic_test_people,
        "image_size": (data_args.image_height, data_args.image_width),
    }


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


def tokenizer_of(splits: DatasetDict) -> Callable[[int, int], PreTrainedTokenizerFast]:
    """A function that trains a tokenizer on the texts of the training split, for `build_model`."""

    def train(vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
        rows = splits["train"]
        texts = [caption for captions in rows["captions"] for caption in captions]
        texts += [text for kind in ("identity", "clothing") for text in rows[f"{kind}_description"] if text]
        return train_tokenizer(texts, vocab_size, max_length)

    return train


def use_every_core(args: BDAMTrainingArguments) -> None:
    """Divides the CPU cores over the processes of a CPU run; `accelerate launch` sets one thread per process."""
    if args.device.type == "cpu":
        torch.set_num_threads(usable_cores())


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


def train_and_save(trainer: BDAMTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains and saves the checkpoint with the best validation metric; returns the training metrics."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics, combined=False)
    trainer.save_state()
    return result.metrics


def train_plain(
    trainer: BDAMTrainer, model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict
) -> BDAMTrainer:
    """Trains a plain dual encoder beside the model of `trainer`: same towers and steps, captions only, InfoNCE only."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    kernels = config._attn_implementation
    fields = config.to_dict() | {"use_bdam": False, "use_fusion": False, "fusion_sequence": "global"}
    fields["clothing_weight"] = 0.0
    args = copy.deepcopy(trainer.args)
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
    processor = trainer.processing_class
    assert isinstance(processor, BDAMProcessor)
    plain = new_trainer(model, args, processor, data_args, splits)
    train_and_save(plain, find_checkpoint(args))
    return plain


def card_data(
    model_args: ModelArguments, data_args: DataArguments, args: BDAMTrainingArguments, splits: DatasetDict
) -> CardData:
    """Names of the data sets and of the pretrained towers, for the model card."""
    evaluated = data_args.eval_dataset_name or data_args.dataset_name
    prefixes = [name.replace("test", "eval", 1) for name in test_splits(splits)]  # in the order of their names
    bases = [model_args.model_name_or_path, model_args.vision_model_name_or_path, model_args.text_model_name_or_path]
    return CardData(
        trained_on={name: license_of(name) for name in data_args.dataset_name} if args.do_train else {},
        evaluated_on=dict(zip(prefixes, evaluated, strict=False)),  # without --do_eval there are no prefixes
        base_models=list(dict.fromkeys(base for base in bases if base is not None and not Path(base).is_dir())),
    )


def test_splits(splits: DatasetDict) -> list[str]:
    """The names of the splits to evaluate on."""
    return [name for name in splits if name.startswith("test")]
