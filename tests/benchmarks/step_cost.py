"""Cost of a training step, relative to a plain dual encoder: `python tests/benchmarks/step_cost.py --preset tiny`.

Both have the same new towers (ViT-B/16 with BERT-base for `paper`, CLIP ViT-B/16 for `clip`) and the same synthetic
rows; the plain encoder reads one of their texts (a caption, or both descriptions joined). A step is that of the
trainer: forward, losses, task weighting, backward. The ratio is the median over rounds. Targets: at most 1.25 for
`tiny`, 1.10 for the others. On a CPU with other load, read the ratio of processor times, with OMP_NUM_THREADS=1.
"""

import argparse
import gc
import statistics
import tempfile
from typing import Any

import torch
from timing import medians, time_in_turns
from torch import Tensor

from data_pipeline.training import load_splits, new_trainer, plain_trainer, tokenizer_of
from modeling_bdam.training.build import build_model
from modeling_bdam.training.run_arguments import parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer

TOWERS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "paper": {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "bert"}},
    "clip": {
        "vision_config": {"model_type": "clip_vision_model", "image_size": [384, 128], "patch_size": 16},
        "text_config": {"model_type": "clip_text_model"},
    },
}


def new_trainers(preset: str, batch_size: int, folder: str, overrides: list[str]) -> dict[str, BDAMTrainer]:
    """Returns the trainers of the preset and of the plain dual encoder, with new towers."""
    flags = [f"--config={preset}", f"--output_dir={folder}", "--eval_strategy=no", "--save_strategy=no", "--do_train"]
    flags += [f"--per_device_train_batch_size={batch_size}", "--dataset_name=synthetic", "--synthetic_people=40"]
    flags += ["--synthetic_val_people=1", "--synthetic_test_people=1", "--dataloader_num_workers=0", *overrides]
    model_args, data_args, args, fields = parse_arguments(flags)
    model_args.vision_model_name_or_path = model_args.text_model_name_or_path = None
    splits = load_splits(data_args, args)
    model, processor = build_model(model_args, data_args, fields | TOWERS[preset], tokenizer_of(splits))
    decoupled = new_trainer(model, args, processor, data_args, splits)
    plain_args = parse_arguments([*flags, "--objective=plain", "--images_per_person=1"])[2]
    return {"step": decoupled, "plain": plain_trainer(decoupled, plain_args, model_args, data_args, splits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(TOWERS), default="tiny")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        trainers = new_trainers(arguments.preset, arguments.batch_size, folder, overrides)
        batches: dict[str, dict[str, Tensor]] = {}
        models: dict[str, torch.nn.Module] = {}
        for name, trainer in trainers.items():
            keys = list(trainer._get_train_sampler())[: arguments.batch_size]
            rows: Any = trainer.train_dataset
            batches[name] = trainer.data_collator([rows[key] for key in keys])
            trainer.current_gradient_accumulation_steps = 1  # `train()` would set it
            models[name] = trainer.accelerator.prepare_model(trainer.model).train()  # with autocast

        def prepare() -> None:
            for model in models.values():
                model.zero_grad()
            gc.collect()
            _synchronize()

        def step(name: str) -> None:
            trainers[name].training_step(models[name], batches[name])
            _synchronize()

        device = trainers["step"].args.device
        print(f"{arguments.preset}, {arguments.batch_size} images, {torch.get_num_threads()} threads, {device}")
        functions = {name: (lambda name=name: step(name)) for name in trainers}
        seconds = time_in_turns(functions, arguments.rounds, prepare)
    for kind, clock in enumerate(("clock", "processor")):
        ratios = [ours[kind] / theirs[kind] for ours, theirs in zip(seconds["step"], seconds["plain"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        times = ", ".join(f"{name} {medians(taken)[kind]:.3f} s" for name, taken in seconds.items())
        print(f"{clock:>9}: {times}, ratio {statistics.median(ratios):.3f} ({spread})")


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


if __name__ == "__main__":
    main()
