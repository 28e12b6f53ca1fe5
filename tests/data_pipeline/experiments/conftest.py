"""A very small preset, and results of runs that were not trained."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits

from data_pipeline.experiments.definitions import Budget, load_experiment
from data_pipeline.experiments.plan import Plan, Study
from data_pipeline.experiments.runs import TrainingRun
from modeling_bdam.files import write_json

PRESET: dict[str, dict[str, Any]] = yaml.safe_load("""
model:
  vision_config: {model_type: vit, image_size: 32, patch_size: 16, hidden_size: 32, num_hidden_layers: 1,
    num_attention_heads: 2, intermediate_size: 32}
  text_config: {model_type: clip_text_model, max_position_embeddings: 64, hidden_size: 32, num_hidden_layers: 1,
    num_attention_heads: 2, intermediate_size: 32}
  hidden_size: 32
  projection_dim: 16
  num_bdam_layers: 1
  num_bdam_heads: 2
  fusion_hidden_size: 16
  num_fusion_layers: 1
  mamba_state_size: 4
  initializer_range: 0.2
data: {image_height: 32, image_width: 32, max_text_length: 64, vocab_size: 300, synthetic_people: 12,
  synthetic_val_people: 3, synthetic_test_people: 5}
training: {max_steps: 4, per_device_train_batch_size: 8, learning_rate: 0.001, adam_epsilon: 0.0001, gradnorm: false,
  logging_steps: 1, eval_strategy: steps, eval_steps: 2, save_strategy: steps, save_steps: 2,
  load_best_model_at_end: true, use_cpu: true}
""")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that compete for busy cores make these tests several times slower."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset that trains in one second."""
    path = tmp_path / "preset.json"
    path.write_text(json.dumps(PRESET))
    return path


@pytest.fixture
def toy_study(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with that preset; the synthetic data set is drawn once per session."""
    cache = tmp_path_factory.getbasetemp() / "data"
    budget = Budget("toy", seeds=(0,), overrides={}, probe_people=6)
    return Study.of(str(preset), budget, {"dataset_name": ["synthetic"], "cache_dir": str(cache)})


@pytest.fixture
def plan_of(toy_study: Study) -> Callable[..., Plan]:
    """`plan_of("beta", "noise", seeds=(0, 1))`."""

    def make(*names: str, seeds: tuple[int, ...] = (0,)) -> Plan:
        return Plan.of(toy_study, [load_experiment(name) for name in names], seeds)

    return make


@pytest.fixture
def write_result(tmp_path: Path) -> Callable[..., None]:
    """`write_result(run, mAP=0.3)`: writes the result of a run into `tmp_path`."""

    def write(run: TrainingRun, **test: float) -> None:
        figures = {"rank1": 0.4, "rank5": 0.6, "rank10": 0.7, "mAP": 0.3, **test}
        figures |= {f"described_{name}": value for name, value in figures.items()}
        figures |= {f"clothes_changing_{name}": figures[name] / 10 for name in ("rank1", "mAP")}
        result: dict[str, Any] = {"run": run.key, "seed": run.seed, "settings": run.settings, "clothing_weight": 1.0}
        result |= {"test": figures, "validation": figures, "queries": 60, "gallery": 30, "people": 5, "best_step": 4}
        result |= {"steps": 4, "train_seconds": 1.5, "seconds": 2.0, "resumed": False, "threads": 1, "parameters": 100}
        result |= {"matching": None, "ranks": {}, "bounds": {"chance": {"rank1": 0.01}, "ceiling": {"rank1": 0.9}}}
        result |= {"commit": "abcdef0123", "versions": {"torch": "2"}, "device": "CPU"}
        write_json(run.save(tmp_path) / "result.json", result | {"finished": "2026-01-01T00:00:00+00:00"})

    return write
