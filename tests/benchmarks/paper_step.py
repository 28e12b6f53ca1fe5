"""A training step of preset `paper` beside its bare towers and BDAM: `python tests/benchmarks/paper_step.py`.

ViT-B/16, BERT-base and BDAM with new weights. The step is the trainer's: fusion, losses, GradNorm, backward. Bare is
the same modules on the same images and the same three texts: forward, a sum as loss, backward. Neither steps an
optimizer. The two take turns, and the ratio is the median over pairs. Wanted: at most 1.10. On a CPU that others use as
well, the clock says little: read the processor time, with OMP_NUM_THREADS=1.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.training.run_arguments import parse_arguments
from modeling_bdam.training.trainer import BDAMTrainer

TEXTS = ("", "identity_", "clothing_")
FIRST_WORD = 1000  # of BERT's vocabulary; the ids before it are special or unused


def paper_trainer(output_dir: str) -> tuple[BDAMModel, BDAMTrainer]:
    """Model and trainer of preset `paper`, over towers that are the named ones but for their weights; without data."""
    flags = {"output_dir": output_dir, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    _, _, args, fields = parse_arguments(["--config=paper", *(f"--{name}={value}" for name, value in flags.items())])
    # Defaults of ViTConfig and BertConfig are the two towers that the preset names.
    model = BDAMModel(BDAMConfig(**fields))
    trainer = BDAMTrainer(model=model, args=args, data_collator=_no_data, retrieval_collator=_no_data)
    trainer.current_gradient_accumulation_steps = 1  # as `train()` would set it
    return model, trainer


def random_batch(size: int, text_length: int) -> dict[str, Tensor]:
    """Two images a person; texts of half to all of `text_length` tokens, no two of them alike."""
    generator = torch.Generator().manual_seed(0)
    batch = {"pixel_values": torch.randn(size, 3, 224, 224, generator=generator)}
    for prefix in TEXTS:
        ids = torch.randint(FIRST_WORD, 30522, (size, text_length), generator=generator)
        lengths = torch.linspace(text_length // 2, text_length, size).long()
        mask = (torch.arange(text_length) < lengths[:, None]).long()
        batch |= {f"{prefix}input_ids": ids * mask, f"{prefix}attention_mask": mask}
    return batch | {"person_ids": torch.arange(size) // 2}


def bare_step(model: BDAMModel, batch: dict[str, Tensor]) -> None:
    """Forward of the towers and BDAM, the sum of what they return as loss, backward."""
    tokens = model.vision_projection(model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state)
    decoupled = model.decoupling(tokens)
    loss = decoupled.identity.sum() + decoupled.clothing.sum()
    for prefix in TEXTS:
        tower = model.text_model(input_ids=batch[f"{prefix}input_ids"], attention_mask=batch[f"{prefix}attention_mask"])
        loss = loss + model.text_projection(tower.last_hidden_state).sum()
    loss.backward()


def seconds(step: Callable[[], object], model: BDAMModel) -> tuple[float, float]:
    """Time of one step by the clock and of the processor, without gradients left over from the last step."""
    model.zero_grad()
    gc.collect()
    _wait()
    start, busy = time.perf_counter(), time.process_time()
    step()
    _wait()
    return time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--text_length", type=int, default=32, help="tokens of the longest text")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model, trainer = paper_trainer(folder)
        batch = {
            name: value.to(trainer.args.device)
            for name, value in random_batch(arguments.batch_size, arguments.text_length).items()
        }
        model.train()

        def trained() -> object:
            return trainer.training_step(model, batch)

        def bare() -> None:
            bare_step(model, batch)

        print(f"{arguments.batch_size} images, 3 texts each, {torch.get_num_threads()} threads, {trainer.args.device}")
        pairs = []
        for number in range(arguments.pairs + 1):
            # Every other pair in the other order: what slows the machine down by and by then favors neither.
            first, second = (trained, bare) if number % 2 else (bare, trained)
            times = {step: seconds(step, model) for step in (first, second)}
            if number == 0:
                continue  # the first pair warms up
            pairs.append((times[trained], times[bare]))
        for kind, name in enumerate(("clock", "processor")):
            ratios = [step[kind] / bare[kind] for step, bare in pairs]
            step_median, bare_median = (
                statistics.median(time[kind] for time in times) for times in zip(*pairs, strict=True)
            )
            ratio, spread = statistics.median(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{name:>9}: step {step_median:7.3f} s, bare {bare_median:7.3f} s")
            print(f"{name:>9}: ratio {ratio:.3f} ({spread}; wanted: at most 1.10)")


def _no_data(rows: list[dict]) -> dict[str, Tensor]:
    raise AssertionError("this benchmark makes its batch itself")


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


if __name__ == "__main__":
    main()
