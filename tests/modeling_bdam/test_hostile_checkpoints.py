"""A folder from a stranger: what does not fit or could do harm is refused, with the reason."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from modeling_bdam import BDAMModel

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A folder with a model."""
    BDAMModel(tiny_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **fields: Any) -> None:
    """Writes fields of config.json; `vision_config__x` is one of the tower's."""
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
def test_a_pickle_is_not_opened(saved: Path, tmp_path: Path, how: dict[str, bool]) -> None:
    torch.save({"weights": Evil(tmp_path / "ran")}, saved / "pytorch_model.bin")
    (saved / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors .* pickle .* could run code"):
        AutoModel.from_pretrained(saved, **how)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 7, 100, -1000])
def test_weights_that_were_cut_off_are_refused(saved: Path, kept: int) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:kept])
    with pytest.raises(OSError, match=r"model: the safetensors are damaged or cut off \(.*\); get them anew"):
        AutoModel.from_pretrained(saved)


def test_weights_that_claim_a_huge_header_are_refused(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(OSError, match="header too large"):
        AutoModel.from_pretrained(saved)


def test_a_weight_of_another_shape_is_named(saved: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        weights["image_clothing_head.weight"] = weights["image_clothing_head.weight"][:3].clone()

    change_weights(saved, cut)
    with pytest.raises(ValueError, match=r"`image_clothing_head\.weight` is \[3, 32\] in the file and \[16, 32\] by"):
        AutoModel.from_pretrained(saved)
    model = AutoModel.from_pretrained(saved, ignore_mismatched_sizes=True)
    assert model.image_clothing_head.weight.shape == (16, 32)


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    def forget(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if not name.startswith("fusion")]:
            weights[f"other.{name}"] = weights.pop(name)

    change_weights(saved, forget)
    with pytest.raises(ValueError, match=r"of its [\d,]+ parameters, the file lacks [\d,]+"):
        AutoModel.from_pretrained(saved)


@pytest.mark.parametrize(
    "field",
    ["projection_dim", "text_config__vocab_size", "vision_config__intermediate_size", "text_config__hidden_size"],
)
def test_a_config_of_a_huge_size_is_refused_before_memory_is_asked_for(saved: Path, field: str) -> None:
    change_config(saved, **{field: 2**24})  # a GiB and more each
    with pytest.raises(ValueError, match=r"the weights do not fit the config: `.*` is .* in the file and .* by the"):
        AutoModel.from_pretrained(saved)


def test_new_weights_of_a_huge_size_are_refused_before_memory_is_asked_for(saved: Path) -> None:
    change_config(saved, mlp_ratio=2**24)
    with pytest.raises(ValueError, match=r"of its [\d,]+ parameters, the file lacks [\d,]+"):
        AutoModel.from_pretrained(saved)


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
def test_a_mad_number_is_refused_before_anything_is_built(saved: Path, field: str, most: int) -> None:
    change_config(saved, **{field: 10**12})
    with pytest.raises(
        StrictDataclassError, match=rf"{field.replace('__', '.')} must be at most {most}, got 1000000000"
    ):
        AutoModel.from_pretrained(saved)


@pytest.mark.parametrize("tower", ["/etc/passwd", "../model", ["vit"]])
def test_a_path_in_the_place_of_a_tower_is_refused(saved: Path, tower: Any) -> None:
    change_config(saved, vision_config=tower)
    with pytest.raises(StrictDataclassError, match=r"Field 'vision_config' with value .* doesn't match"):
        AutoConfig.from_pretrained(saved)


def test_a_path_in_the_place_of_a_kind_of_tower_is_refused(saved: Path) -> None:
    change_config(saved, text_config__model_type="../../evil")
    with pytest.raises(ValueError, match=r"text_config: transformers has no model type `\.\./\.\./evil`"):
        AutoConfig.from_pretrained(saved)


def test_the_installed_package_runs_no_code_of_the_folder(saved: Path, tmp_path: Path) -> None:
    (saved / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    change_config(saved, auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import modeling_bdam
from transformers import AutoModel
print(type(AutoModel.from_pretrained({str(saved)!r}, trust_remote_code=True)).__module__)
"""
    for before in ("", "from transformers import AutoConfig, AutoModel\n"):
        run = subprocess.run([sys.executable, "-c", before + program], cwd=tmp_path, capture_output=True, text=True)
        assert run.stdout.strip() == "modeling_bdam.modeling_bdam", run.stderr
    assert not (tmp_path / "ran").exists()


def test_a_whole_folder_still_loads(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    first, second = BDAMModel.from_pretrained(saved), AutoModel.from_pretrained(tmp_path / "copy", use_safetensors=True)
    for name, value in first.state_dict().items():
        assert value.equal(second.state_dict()[name])
