"""Fine-tuning from CLIP on few people: `python tests/benchmarks/transfer.py --output_dir DIR`, without network.

1. A small CLIP is pretrained on square pictures of `synthetic-station` with its captions, and kept in DIR.
2. It is fine-tuned on 100 people of `synthetic`, who are others, drawn and described in another way: as a plain dual
   encoder, by IRRA, by RDE, and by the preset `clip` scaled down (`ours`). `probe` trains only linear layers behind
   frozen towers, `zero-shot` nothing.
3. All of them get the same texts and the same measured time of training steps, so the machine should have no other
   load. Each learning rate is the one with the best validation mAP on the first seed and size.

The table has the mean and the standard deviation over seeds on the test people, for the aspect ratio of 384 x 128 and
for the square size of the pretraining. Targets: `ours` is not below the best baseline in the standard protocol, and has
at least twice its clothes-changing mAP (β = 0). DIR keeps finished runs as JSON.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import plain_dual_encoder
import torch
from datasets import DatasetDict
from plain_dual_encoder import METRICS
from torch.utils.data import DataLoader
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, ViTImageProcessorPil, set_seed

from data_pipeline.batches.augmentation import AugmentationConfig
from data_pipeline.batches.collator import TrainCollator
from data_pipeline.images import with_image_files
from data_pipeline.synthetic.dataset import load_synthetic
from data_pipeline.training import new_trainer, tokenizer_of, use_every_core
from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.files import cpu_has_bfloat16, write_json
from modeling_bdam.training.build import choose_trained_weights
from modeling_bdam.training.console import quiet_libraries
from modeling_bdam.training.run_arguments import DataArguments, ModelArguments, read_preset
from modeling_bdam.training.sampler import IdentityBalancedSampler, KeyedDataset
from modeling_bdam.training.trainer import BDAMTrainer
from modeling_bdam.training.training_args import DUAL_ENCODER_FIELDS, BDAMTrainingArguments

SIZES = {"96x32": (96, 32), "64x64": (64, 64)}  # height and width; the second one is that of the pretraining
PATCH, WIDTH, BATCH_SIZE, SOURCE_SEED, TARGET_SEED = 8, 128, 32, 1, 0
LAYERS = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH}
BDAM_FIELDS = {"num_bdam_layers": 1, "num_bdam_parts": 8, "num_bdam_heads": 4, "fusion_hidden_size": WIDTH}
# Training arguments, fields of the config, and whether the towers are trained
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "probe": ({"objective": "plain"}, DUAL_ENCODER_FIELDS, False),
    "plain": ({"objective": "plain"}, DUAL_ENCODER_FIELDS, True),
    "irra": ({"objective": "irra"}, DUAL_ENCODER_FIELDS, True),
    "rde": ({"objective": "rde"}, DUAL_ENCODER_FIELDS, True),
    "tbps": ({"objective": "tbps"}, DUAL_ENCODER_FIELDS, True),
    "ours": ({}, BDAM_FIELDS, True),
    "ours_sdm": ({"pair_loss": "sdm"}, BDAM_FIELDS, True),
    "ours_tal": ({"pair_loss": "tal"}, BDAM_FIELDS, True),
}
DEFAULT_METHODS = ("probe", "plain", "irra", "rde", "ours")


@dataclasses.dataclass(kw_only=True)
class Result(plain_dual_encoder.Result):
    """A result with its learning rate."""

    learning_rate: float


def pretrain(folder: Path, seconds: float, people: int) -> None:
    """Trains a small CLIP on square pictures for some seconds, and saves it with its tokenizer."""
    set_seed(0)
    splits = load_synthetic(people, 1, 1, seed=SOURCE_SEED, name="synthetic-station")
    tokenizer = tokenizer_of(splits)(4096, 80)
    size = SIZES["64x64"][0]
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 80,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "num_hidden_layers": 2,
    }
    image = {"image_size": size, "patch_size": PATCH, "num_hidden_layers": 4}
    model = CLIPModel(CLIPConfig(text_config=LAYERS | text, vision_config=LAYERS | image, projection_dim=WIDTH))
    model.set_attn_implementation("eager")  # quicker on a CPU for so few tokens
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    rows = with_image_files(splits["train"])
    collator = TrainCollator(processor_of(tokenizer, (size, size)), AugmentationConfig(word_mask_probability=0), True)
    sampler = IdentityBalancedSampler(rows["person_id"], 1, 64, seed=0)
    loader = DataLoader(KeyedDataset(rows), 64, sampler=sampler, collate_fn=collator, drop_last=True)  # type: ignore[arg-type]
    begin = time.perf_counter()
    steps, done = 0, 0.0
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        for batch in loader:
            batch.pop("person_ids")
            for group in optimizer.param_groups:  # warm-up, then a linear decay over the time
                group["lr"] = 1e-3 * min(1.0, (steps + 1) / 50, 1.05 - done)
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
                loss = model(**batch, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps, done = steps + 1, (time.perf_counter() - begin) / seconds
            if steps % 100 == 0 or done >= 1:
                print(f"pretraining, step {steps}: {100 * min(done, 1):.0f} % of the time, loss {loss:.3f}", flush=True)
            if done >= 1:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                return


def processor_of(tokenizer: PreTrainedTokenizerFast, size: tuple[int, int]) -> BDAMProcessor:
    """Returns a processor for images of a size (height, width)."""
    pixels: Any = ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return BDAMProcessor(pixels, tokenizer)


def trainer_of(
    method: str, clip: Path, size: tuple[int, int], splits: DatasetDict, folder: str, **settings: Any
) -> BDAMTrainer:
    """Returns the trainer of a method, from the pretrained model and the settings of the preset `clip`."""
    arguments, fields, trains_towers = METHODS[method]
    preset = read_preset("clip")
    defaults = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "num_train_epochs": 1}
    defaults |= {"output_dir": folder, "use_cpu": not torch.accelerator.is_available(), "disable_tqdm": True}
    defaults |= {"bf16": torch.accelerator.is_available() or cpu_has_bfloat16()}
    defaults |= {"per_device_train_batch_size": BATCH_SIZE, "do_train": True, "dataloader_num_workers": 0, **arguments}
    args = BDAMTrainingArguments(**{**preset["training"], **defaults, **settings})
    use_every_core(args)
    set_seed(args.seed)
    model = BDAMModel.from_vision_text_pretrained(str(clip), str(clip), interpolate_pos_encoding=True, **fields)
    model.set_attn_implementation("eager")
    frozen = 0 if trains_towers else -1
    choose_trained_weights(model, ModelArguments(frozen_vision_layers=frozen, frozen_text_layers=frozen))
    processor = processor_of(PreTrainedTokenizerFast.from_pretrained(clip), size)
    return new_trainer(model, args, processor, DataArguments(word_mask_probability=0.0), splits)


def steps_in(method: str, clip: Path, size: tuple[int, int], splits: DatasetDict, seconds: float) -> int:
    """Returns the number of training steps that a method makes in some seconds, by the steps of a second epoch."""
    epoch = len(splits["train"]) // BATCH_SIZE
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(method, clip, size, splits, folder, max_steps=2 * epoch, logging_steps=epoch)
        trainer.train()
    measured = [entry["seconds_per_step"] for entry in trainer.state.log_history if "seconds_per_step" in entry]
    return max(4, round(seconds / measured[-1]))


def fine_tune(
    method: str, clip: Path, size: tuple[int, int], splits: DatasetDict, steps: int, rate: float, seed: int
) -> Result:
    """Trains a method and scores it on the test people."""
    every = max(1, steps // 3)
    settings: dict[str, Any] = {f"{kind}_steps": every for kind in ("eval", "save", "logging")}
    settings |= {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}
    settings |= {"max_steps": 3 * every, "learning_rate": rate, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(method, clip, size, splits, folder, **settings)
        trainer.train()
        is_ours = trainer.args.objective == "decoupled"
        beta = trainer.choose_clothing_weight() if is_ours else 0.0
        return scored(trainer, splits, rate, beta)


def scored(trainer: BDAMTrainer, splits: DatasetDict, rate: float, beta: float) -> Result:
    """Scores a model on validation and test people."""
    validation, test = (
        trainer.score(trainer.encode(with_image_files(splits[name]))) for name in ("validation", "test")
    )
    seconds = trainer.seconds_per_step() if trainer.state.global_step else 0.0
    metrics = {name: test[f"eval_{name}"] for name in METRICS}
    steps, precision = trainer.state.global_step, validation["eval_mAP"]
    return Result(steps, seconds, beta, precision, **metrics, learning_rate=rate)


def results_of(
    method: str, name: str, rates: list[float], options: argparse.Namespace, clip: Path, splits: DatasetDict
) -> list[Result]:
    """Tunes a method on the first seed and trains it on the others; reads finished runs from their files."""
    size = SIZES[name]

    def kept(path: Path, run: Any) -> Result:
        if not path.is_file():
            write_json(path, dataclasses.asdict(run()))
        return Result(**json.loads(path.read_text()))

    folder = options.output_dir
    file = folder / f"{method}-{name}-steps.json"
    if not file.is_file():
        write_json(file, steps_in(method, clip, size, splits, options.seconds))
    steps = json.loads(file.read_text())

    def run(rate: float, seed: int) -> Result:
        path = folder / f"{method}-{name}-{rate:g}-{seed}.json"
        result = kept(path, lambda: fine_tune(method, clip, size, splits, steps, rate, seed))
        print(
            f"{method} {name}, rate {rate:g}, seed {seed}: validation mAP {100 * result.validation_mAP:.2f}", flush=True
        )
        return result

    first, *others = options.seeds
    best = max((run(rate, first) for rate in rates), key=lambda result: result.validation_mAP)
    return [best, *(run(best.learning_rate, seed) for seed in others)]


def print_row(method: str, results: list[Result]) -> dict[str, float]:
    """Prints the mean and the standard deviation of the metrics in per cent; returns the means (0 to 1)."""
    values = {name: [getattr(result, name) for result in results] for name in METRICS}
    means = {name: statistics.mean(each) for name, each in values.items()}
    spread = {name: statistics.stdev(each) if len(each) > 1 else 0.0 for name, each in values.items()}
    figures = "  ".join(f"{100 * means[name]:6.2f} ± {100 * spread[name]:4.2f}" for name in METRICS)
    one = results[0]
    print(f"{method:10} {one.learning_rate:9g} {one.steps:6d} {one.seconds_per_step:7.3f} {one.beta:5g}  {figures}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pretrain_seconds", type=float, default=480)
    parser.add_argument("--pretrain_people", type=int, default=2500)
    parser.add_argument("--seconds", type=float, default=26, help="of training steps of each run")
    parser.add_argument("--people", type=int, default=100, help="to fine-tune on")
    parser.add_argument("--test_people", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(DEFAULT_METHODS))
    options = parser.parse_args()
    quiet_libraries()
    fixed = {name: value for name, value in vars(options).items() if isinstance(value, int | float)}
    record: Path = options.output_dir / "options.json"
    if record.is_file() and (found := json.loads(record.read_text())) != fixed:
        raise SystemExit(f"{options.output_dir} has runs with {found}: choose another --output_dir")
    clip: Path = options.output_dir / "clip"
    begin = time.perf_counter()
    if not (clip / "config.json").is_file():
        clip.mkdir(parents=True, exist_ok=True)
        pretrain(clip, options.pretrain_seconds, options.pretrain_people)
    write_json(record, fixed)
    splits = load_synthetic(options.people, options.people // 2, options.test_people, seed=TARGET_SEED)

    heading = f"{'method':10} {'rate':>9} {'steps':>6} {'s/step':>7} {'β':>5}  {'rank-1':>13}  {'mAP':>13}  "
    means: dict[str, dict[str, dict[str, float]]] = {}
    tables: dict[str, dict[str, list[Result]]] = {}
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            untrained = trainer_of("plain", clip, SIZES[name], splits, folder, max_steps=1)
            tables[name] = {"zero-shot": [scored(untrained, splits, 0.0, 0.0)]}
        tuned = tables[options.sizes[0]]
        for method in options.methods:
            rates = [tuned[method][0].learning_rate] if method in tuned else options.rates
            tables[name][method] = results_of(method, name, rates, options, clip, splits)
    for name, table in tables.items():
        print(f"\n{name}: {options.people} people, {options.seconds:g} seconds each, {len(options.seeds)} seeds")
        print(heading + "clothes-changing mAP")
        means[name] = {method: print_row(method, results) for method, results in table.items()}
        baselines = [method for method in table if not method.startswith("ours")]
        for method in (method for method in table if method.startswith("ours")):
            best = {metric: max(means[name][other][metric] for other in baselines) for metric in METRICS}
            own = means[name][method]
            gains = ", ".join(f"{metric} {100 * (own[metric] - best[metric]):+.2f}" for metric in METRICS[:2])
            times = own[METRICS[2]] / best[METRICS[2]]
            print(f"{method} against the best baseline: {gains} (target: 0 or more)")
            print(f"{' ' * len(method)} clothes-changing mAP x {times:.2f} (target: 2 or more)")
    print(f"\n{time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
