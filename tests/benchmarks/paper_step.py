"""Training step of preset `paper`, compared with its bare towers and BDAM: `python tests/benchmarks/paper_step.py`.

ViT-B/16, BERT-base and BDAM with new weights. The step is that of the trainer: fusion, losses, GradNorm, backward. The
bare step runs the same modules on the same images and the same three texts: forward, a sum as loss, backward. Neither
updates the weights. The ratio is the median over rounds; target: at most 1.10. On a CPU with other load, read the
ratio of processor times, with OMP_NUM_THREADS=1.
"""

import argparse
import gc
import statistics
import tempfile
from typing import Any

import torch
from timing import medians, time_in_turns
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training.run_arguments import parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer

TEXTS = ("", "identity_", "clothing_")
FIRST_WORD = 1000  # smaller ids of BERT's vocabulary are special or unused


def paper_trainer(output_dir: str, bf16: bool = False, **fields: Any) -> tuple[BDAMModel, BDAMTrainer]:
    """Returns model and trainer of preset `paper` with new weights and without data.

    Args:
        fields: config fields that replace those of the preset, such as smaller towers.
    """
    flags = {"output_dir": output_dir, "bf16": bf16, "eval_strategy": "no", "save_strategy": "no"}
    flags |= {"load_best_model_at_end": False}
    arguments = ["--config=paper", *(f"--{name}={value}" for name, value in flags.items())]
    _, _, args, preset_fields = parse_arguments(arguments)
    # The defaults of ViTConfig and BertConfig are the towers of the preset, ViT-B/16 and BERT-base.
    model = BDAMModel(BDAMConfig(**{**preset_fields, **fields}))
    trainer = BDAMTrainer(model=model, args=args, data_collator=_no_data, retrieval_collator=_no_data)
    trainer.current_gradient_accumulation_steps = 1  # `train()` would set it
    return model, trainer


def random_batch(size: int, text_length: int) -> dict[str, Tensor]:
    """Makes a batch with two images per person and random texts of text_length / 2 to text_length tokens."""
    generator = torch.Generator().manual_seed(0)
    batch = {"pixel_values": torch.randn(size, 3, 224, 224, generator=generator)}  # [B, 3, H, W]
    for prefix in TEXTS:
        ids = torch.randint(FIRST_WORD, 30522, (size, text_length), generator=generator)  # [B, L]
        lengths = torch.linspace(text_length // 2, text_length, size).long()  # [B]
        mask = (torch.arange(text_length) < lengths[:, None]).long()  # [B, L]
        batch |= {f"{prefix}input_ids": ids * mask, f"{prefix}attention_mask": mask}
    return batch | {"person_ids": torch.arange(size) // 2}


def bare_step(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    """Runs the towers and BDAM forward and backward, with the sum of their outputs as loss."""
    tokens = model.vision_projection(model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state)
    decoupled = model.decoupling(tokens)
    loss = decoupled.identity.sum() + decoupled.clothing.sum()
    for prefix in TEXTS:
        tower = model.text_model(input_ids=batch[f"{prefix}input_ids"], attention_mask=batch[f"{prefix}attention_mask"])
        loss = loss + model.text_projection(tower.last_hidden_state).sum()
    loss.backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--text_length", type=int, default=32, help="tokens of the longest text")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model, trainer = paper_trainer(folder)
        model.train()
        device = trainer.args.device
        batch = {
            name: value.to(device) for name, value in random_batch(arguments.batch_size, arguments.text_length).items()
        }

        def prepare() -> None:
            model.zero_grad()
            gc.collect()
            _synchronize()

        def step() -> None:
            trainer.training_step(model, batch)
            _synchronize()

        def bare() -> None:
            bare_step(model, batch)
            _synchronize()

        print(f"{arguments.batch_size} images, 3 texts each, {torch.get_num_threads()} threads, {device}")
        seconds = time_in_turns({"step": step, "bare": bare}, arguments.rounds, prepare)
    for kind, name in enumerate(("clock", "processor")):
        ratios = [ours[kind] / theirs[kind] for ours, theirs in zip(seconds["step"], seconds["bare"], strict=True)]
        median, spread = statistics.median(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"
        times = ", ".join(f"{way} {medians(taken)[kind]:.3f} s" for way, taken in seconds.items())
        print(f"{name:>9}: {times}, ratio {median:.3f} ({spread}; target: at most 1.10)")


def _no_data(rows: list[dict]) -> dict[str, Tensor]:
    raise AssertionError("the benchmark makes its own batch")


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


if __name__ == "__main__":
    main()
