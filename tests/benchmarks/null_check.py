"""Error rate of the rule of judgement: `python tests/benchmarks/null_check.py --output-dir DIR [--comparisons 20]`.

Trains smaller towers than those of `tiny` for a few steps with many seeds, and compares groups of these runs that
differ only in their seeds. A comparison fires if any of its figures gets a verdict other than "cannot be told". Target:
at most 5 % of the comparisons with three seeds each. Comparisons of one seed rest on test people only and are printed
beside. Finished runs are kept in DIR.
"""

import argparse
import json
from pathlib import Path

import datasets
from transformers.utils import logging

from data_pipeline.experiments.definitions import Budget, Row
from data_pipeline.experiments.plan import Study
from data_pipeline.experiments.results import RowResult
from data_pipeline.experiments.train_run import train_run
from data_pipeline.experiments.verdicts import UNKNOWN, compare

SEEDS = 3  # of each group
BUDGET = Budget(
    "null",
    seeds=(0,),
    overrides={
        "model": {
            "vision_config": {"hidden_sizes": [8, 16, 32]},
            "text_config": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32},
            **{"hidden_size": 32, "projection_dim": 16, "num_bdam_heads": 2, "fusion_hidden_size": 16},
        },
        "data": {
            **{"synthetic_people": 30, "synthetic_val_people": 3, "synthetic_test_people": 30},
            **{"image_height": 64, "image_width": 32, "vocab_size": 400},
        },
        "training": {
            **{"max_steps": 20, "per_device_train_batch_size": 16, "learning_rate": 5e-3},
            **{"eval_steps": 20, "save_steps": 20, "logging_steps": 5},
        },
    },
    probe_people=0,
)


def fires(study: Study, first: list[int], second: list[int], output_dir: Path) -> bool:
    """Whether a verdict separates two groups of seeds of the same settings."""
    rows = []
    for name, seeds in (("A", first), ("B", second)):
        lines = []
        for place, seed in enumerate(seeds):
            folder = study.training_run(Row(name), seed).folder(output_dir)
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            lines.append(result | {"seed": place, "torch": result["versions"]["torch"]})
        rows.append(RowResult(Row(name), (), tuple(lines)))
    return any(comparison.verdict != UNKNOWN for comparison in compare(rows, "A"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--comparisons", type=int, default=20)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    study = Study.of("tiny", BUDGET, {"dataset_name": ["synthetic"]})
    seeds = list(range(2 * SEEDS * options.comparisons))
    for seed in seeds:
        train_run(study.training_run(Row("A"), seed).save(options.output_dir), threads=1)
        print(f"\r{seed + 1} of {len(seeds)} runs", end="", flush=True)
    for size in (SEEDS, 1):
        groups = [seeds[start : start + size] for start in range(0, 2 * size * options.comparisons, size)]
        pairs = zip(groups[::2], groups[1::2], strict=True)
        count = sum(fires(study, *pair, options.output_dir) for pair in pairs)
        print(f"\n{size} seeds each: the rule fires in {count} of {options.comparisons} comparisons", end="")
    print()


if __name__ == "__main__":
    main()
