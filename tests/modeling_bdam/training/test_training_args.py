"""Training arguments on a machine with several GPUs."""

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments
from transformers.testing_utils import CaptureLogger

from modeling_bdam.training import training_args
from modeling_bdam.training.training_args import BDAMTrainingArguments


@pytest.mark.parametrize("gpus", [1, 4])
def test_one_process_uses_one_of_several_gpus(gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_up(args: TrainingArguments) -> torch.device:
        vars(args).setdefault("_n_gpu", gpus)
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(set_up))
    with CaptureLogger(training_args.logger) as logged:
        args = BDAMTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8)
    assert (args.n_gpu, args.train_batch_size) == (1, 8)  # `Trainer` would wrap the model in DataParallel
    warning = "training on one of 4 GPUs; start with `accelerate launch` to use all of them"
    assert (warning in logged.out) == (gpus > 1)
