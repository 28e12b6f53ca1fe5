"""Runs transformers' common tests of models and configurations on BDAM with four types of towers.

The tests are not part of the installed package: the source archive of the same version is downloaded once, with pip,
into pytest's cache.
"""

import contextlib
import importlib
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modeling_bdam import BDAMConfig, BDAMModel

CACHE = Path(__file__).parents[2] / ".pytest_cache" / "d" / f"transformers-{transformers.__version__}-tests"


def _fetch_common_tests() -> None:
    """Downloads the tests of the installed transformers to CACHE, or skips this file."""
    if CACHE.exists():
        return
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    requirement = f"transformers=={transformers.__version__}"
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        options = ["--quiet", "--retries=1", "--no-deps", "--no-build-isolation", "--no-binary=transformers"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, requirement]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            reason = (run.stderr.strip() or "no reason given").splitlines()[-1]
            pytest.skip(f"no source archive of {requirement}: {reason}", allow_module_level=True)
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            members = [member for member in archive if Path(member.name).parts[1:2] == ("tests",)]
            archive.extractall(scratch, members, filter="data")
        with contextlib.suppress(OSError):  # another process has downloaded them
            next(Path(scratch).glob("*/tests")).rename(CACHE)


def _import_common_tests() -> tuple[Any, Any]:
    """Imports `test_modeling_common` and `test_configuration_common`, with stubs of their unused imports."""
    package = types.ModuleType("transformers_tests")
    package.__path__ = [str(CACHE)]
    (CACHE / "__init__.py").touch()  # test_configuration_common imports its folder as a package
    sys.modules["transformers_tests"] = package
    stubs: dict[str, dict[str, Any]] = {
        "exporters": {},
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "generation": {},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "utils": {},
        "utils.test_configuration_utils": {"config_common_kwargs": {}},
    }
    for name, contents in stubs.items():
        stub = types.ModuleType(f"transformers_tests.{name}")
        vars(stub).update(contents)
        sys.modules[stub.__name__] = stub
    modeling = importlib.import_module("transformers_tests.test_modeling_common")
    return modeling, importlib.import_module("transformers_tests.test_configuration_common")


_fetch_common_tests()
_modeling_common, _configuration_common = _import_common_tests()


class TinyBDAM:
    """Provides configurations, inputs and expected sizes to the common tests."""

    is_training = True
    num_hidden_layers = 2  # one layer in each of BDAM's two branches
    num_attention_heads = 4
    hidden_size = 32

    def __init__(self, config: Any, batch: dict[str, torch.Tensor], seq_length: int) -> None:
        self.config, self.seq_length = config, seq_length
        # The test of resizing removes 15 tokens from the vocabulary, and adapts only `input_ids`.
        top = config.text_config.vocab_size - 16
        self.batch = {name: value.clamp(max=top) if value.ndim == 2 else value for name, value in batch.items()}
        self.batch_size = len(batch["pixel_values"])
        self.vision_config, self.text_config = config.vision_config.to_dict(), config.text_config.to_dict()

    def get_config(self) -> BDAMConfig:
        return BDAMConfig.from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self) -> tuple[BDAMConfig, dict[str, Any]]:
        return self.get_config(), {**self.batch, "return_loss": True}


class CommonTests(_modeling_common.ModelTesterMixin):  # type: ignore[name-defined]
    all_model_classes = (BDAMModel,)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True  # the test also applies to new models
    towers: str
    image_tokens = 17

    additional_model_inputs = ("input_ids",)  # compares attention kernels on both towers

    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_config: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        # 1/τ = 1: the usual 14 scales the rounding of half precision above the tests' absolute tolerance.
        config = tiny_config(self.towers, logit_scale_init_value=0.0)
        self.model_tester = TinyBDAM(config, make_batch(), self.image_tokens)
        steady = _modeling_common.set_config_for_less_flaky_test

        def steady_towers(config: BDAMConfig) -> None:
            for tower in (config.vision_config, config.text_config):
                steady(tower)  # sets fields that BDAMConfig does not have

        monkeypatch.setattr(_modeling_common, "set_config_for_less_flaky_test", steady_towers)

    def test_config(self) -> None:
        properties = ["hidden_size", "projection_dim", "logit_scale_init_value"]
        _configuration_common.ConfigTester(
            self, config_class=BDAMConfig, has_text_modality=False, common_properties=properties
        ).run_common_tests()


class BDAMWithViTAndBertTest(CommonTests, unittest.TestCase):
    towers = "vit"


@pytest.mark.slow
class BDAMWithClipTest(CommonTests, unittest.TestCase):
    towers = "clip"


@pytest.mark.slow
class BDAMWithSiglipTest(CommonTests, unittest.TestCase):
    towers = "siglip"
    image_tokens = 16  # no class token


@pytest.mark.slow
class BDAMWithDinov2AndBertTest(CommonTests, unittest.TestCase):
    towers = "dinov2"
