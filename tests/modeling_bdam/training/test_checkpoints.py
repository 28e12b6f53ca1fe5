"""The checkpoint that an interrupted run resumes from."""

import json
from pathlib import Path

import pytest

from modeling_bdam.training.checkpoints import find_checkpoint
from modeling_bdam.training.training_args import BDAMTrainingArguments


def arguments(folder: Path, learning_rate: float) -> BDAMTrainingArguments:
    return BDAMTrainingArguments(output_dir=str(folder), learning_rate=learning_rate, use_cpu=True)


def test_find_checkpoint_refuses_other_learning_rate(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    assert find_checkpoint(arguments(tmp_path, 0.1)) == str(checkpoint)  # without arguments, of an older version
    (checkpoint / "training_args.json").write_text(json.dumps(arguments(tmp_path, 0.1).to_dict()))
    assert find_checkpoint(arguments(tmp_path, 0.1)) == str(checkpoint)
    message = "--learning_rate is 0.2, but .*checkpoint-4 was trained with 0.1 and a resumed run keeps it"
    with pytest.raises(ValueError, match=message):
        find_checkpoint(arguments(tmp_path, 0.2))
