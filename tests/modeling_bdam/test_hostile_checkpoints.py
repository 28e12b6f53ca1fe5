"""Tests that an untrusted or damaged checkpoint folder is refused, with the reason, before it can do harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

WEIGHTS = "model.safetensors"


def change_config(folder: Path, **fields: Any) -> None:
    """Changes fields of config.json; `vision_config__x` is field x of the vision tower."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", [{}, {"use_safetensors": False}, {"weights_only": False}])
def test_pickle_is_not_opened(checkpoint: Path, tmp_path: Path, how: dict[str, bool]) -> None:
    torch.save({"weights": Evil(tmp_path / "ran")}, checkpoint / "pytorch_model.bin")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors .* pickle .* could run code"):
        AutoModel.from_pretrained(checkpoint, **how)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 7, 100, -1000, None])
def test_damaged_weights_are_refused(checkpoint: Path, kept: int | None) -> None:
    content = (checkpoint / WEIGHTS).read_bytes()
    huge_header = (2**62).to_bytes(8, "little") + b"{}"
    (checkpoint / WEIGHTS).write_bytes(huge_header if kept is None else content[:kept])
    reason = "header too large" if kept is None else ".*"
    with pytest.raises(
        OSError, match=rf"model: the safetensors are damaged or truncated \(.*{reason}.*\); download them"
    ):
        AutoModel.from_pretrained(checkpoint)


def test_mismatched_weight_shape_is_named(checkpoint: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        weights["image_clothing_head.weight"] = weights["image_clothing_head.weight"][:3].clone()

    change_weights(checkpoint, cut)
    with pytest.raises(ValueError, match=r"`image_clothing_head\.weight` is \[3, 32\] in the file and \[16, 32\] by"):
        AutoModel.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint, ignore_mismatched_sizes=True)
    assert model.image_clothing_head.weight.shape == (16, 32)


def test_weights_of_other_model_are_refused(checkpoint: Path) -> None:
    def forget(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if not name.startswith("fusion")]:
            weights[f"other.{name}"] = weights.pop(name)

    change_weights(checkpoint, forget)
    with pytest.raises(ValueError, match=r"of its [\d,]+ parameters, the file lacks [\d,]+"):
        AutoModel.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        *(
            (field, "`.*` is .* in the file and .* by the")
            for field in (
                "projection_dim",
                "text_config__vocab_size",
                "vision_config__intermediate_size",
                "text_config__hidden_size",
            )
        ),
        ("mlp_ratio", r"of its [\d,]+ parameters, the file lacks [\d,]+"),
    ],
)
def test_huge_config_size_is_refused_before_allocation(checkpoint: Path, field: str, reason: str) -> None:
    change_config(checkpoint, **{field: 2**24})  # a GiB and more each
    with pytest.raises(ValueError, match=f"the weights do not fit the config: {reason}"):
        AutoModel.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("num_bdam_layers", 1000),
        ("num_fusion_layers", 1000),
        ("vision_config__num_hidden_layers", 1000),
        ("text_config__num_hidden_layers", 1000),
        ("text_config__hidden_size", 2**24),
        ("vision_config__image_size", 2**24),
        ("mamba_expand", 2**24),
        ("mlp_ratio", 2**24),
    ],
)
def test_config_above_upper_bound_is_refused(checkpoint: Path, field: str, most: int) -> None:
    change_config(checkpoint, **{field: 10**12})
    message = f"{field.replace('__', '.')} must be at most {most}, got 1000000000"
    with pytest.raises(StrictDataclassError, match=message):
        AutoModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("tower", ["/etc/passwd", "../model", ["vit"]])
def test_path_instead_of_tower_config_is_refused(checkpoint: Path, tower: Any) -> None:
    change_config(checkpoint, vision_config=tower)
    with pytest.raises(StrictDataclassError, match=r"Field 'vision_config' with value .* doesn't match"):
        AutoConfig.from_pretrained(checkpoint)


def test_path_instead_of_tower_type_is_refused(checkpoint: Path) -> None:
    change_config(checkpoint, text_config__model_type="../../evil")
    with pytest.raises(ValueError, match=r"text_config: transformers has no model type `\.\./\.\./evil`"):
        AutoConfig.from_pretrained(checkpoint)


@pytest.mark.parametrize("before", ["", "from transformers import AutoConfig, AutoModel\n"])
def test_installed_package_runs_no_code_of_the_folder(
    checkpoint: Path, tmp_path: Path, run_python: Any, before: str
) -> None:
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    change_config(checkpoint, auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    program = f"""{before}
import modeling_bdam
from transformers import AutoModel
print(type(AutoModel.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)).__module__)
"""
    assert run_python(program, package=True).strip() == "modeling_bdam.modeling_bdam"
    assert not (tmp_path / "ran").exists()
