"""Tests of the Mamba layer against mamba_ssm's reference and transformers' MambaMixer, in float64."""

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MambaConfig
from transformers.dynamic_module_utils import get_imports
from transformers.models.mamba.modeling_mamba import MambaMixer  # before the stubs: its import looks for kernels

from modeling_bdam import mamba_bdam
from modeling_bdam.mamba_bdam import MambaBlock

WIDTH = 24
LENGTHS = pytest.mark.parametrize("length", [1, 2, 3, 17, 64])
TOLERANCE = 1e-10


@pytest.fixture
def block() -> MambaBlock:
    torch.manual_seed(0)
    return MambaBlock(WIDTH).double()


@pytest.fixture
def double_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes both references compute in float64: they cast by `Tensor.float`."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture
def mamba_simple() -> Iterator[ModuleType]:
    """The module of `mamba_ssm.Mamba` with its reference scan; a missing compiled extension is an empty stub."""
    if importlib.util.find_spec("mamba_ssm") is None:
        pytest.skip("mamba_ssm is not installed: MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-deps mamba-ssm")
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("einops") is None:
        pytest.skip("mamba_ssm's reference needs triton and einops")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("selective_scan_cuda") is None:
            patch.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
        from mamba_ssm.modules import mamba_simple
        from mamba_ssm.ops import selective_scan_interface as ops

        patch.setattr(mamba_simple, "selective_scan_fn", ops.selective_scan_ref)
        patch.setattr(mamba_simple, "causal_conv1d_fn", None)
        patch.setattr(ops, "selective_scan_fn", ops.selective_scan_ref)
        patch.setattr(ops, "causal_conv1d_fn", reference_conv)
        yield mamba_simple
    for name in set(sys.modules) - before:  # other tests must not import the stub
        if name.split(".")[0] == "mamba_ssm":
            del sys.modules[name]


def reference_conv(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Computes `causal_conv1d_fn`, [B, E, L] to [B, E, L]."""
    assert activation == "silu"
    padding = weight.shape[-1] - 1
    return F.silu(F.conv1d(x, weight[:, None], bias, padding=padding, groups=len(weight))[..., : x.shape[-1]])


def output_and_gradients(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Returns the output and the gradients of input and parameters for a fixed random cotangent."""
    inputs = inputs.clone().requires_grad_()
    output = module(inputs)
    cotangent = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    names, parameters = zip(*sorted(module.named_parameters()), strict=True)
    gradients = torch.autograd.grad(output, [inputs, *parameters], cotangent)
    return dict(zip(["output", "input", *names], [output.detach(), *gradients], strict=True))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def sequence(length: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(length))


@LENGTHS
@pytest.mark.usefixtures("double_references")
def test_block_equals_transformers_mixer(block: MambaBlock, length: int) -> None:
    mixer = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=16, num_hidden_layers=1), layer_idx=0).double()
    mixer.load_state_dict(block.state_dict())
    assert_same(output_and_gradients(block, sequence(length)), output_and_gradients(mixer, sequence(length)))


@LENGTHS
@pytest.mark.usefixtures("double_references")
def test_block_equals_mamba_ssm(block: MambaBlock, mamba_simple: ModuleType, length: int) -> None:
    reference = mamba_simple.Mamba(WIDTH, use_fast_path=False).double()
    reference.load_state_dict(block.state_dict())
    assert_same(output_and_gradients(block, sequence(length)), output_and_gradients(reference, sequence(length)))


@pytest.mark.parametrize("sizes", [{"d_state": 5}, {"d_conv": 2}, {"d_conv": 6}, {"expand": 3}], ids=str)
@pytest.mark.usefixtures("double_references")
def test_block_of_other_sizes_equals_mamba_ssm(mamba_simple: ModuleType, sizes: dict[str, int]) -> None:
    ours, reference = MambaBlock(WIDTH, **sizes).double(), mamba_simple.Mamba(WIDTH, **sizes).double()
    ours.load_state_dict(reference.state_dict())
    assert_same(output_and_gradients(ours, sequence(9)), output_and_gradients(reference, sequence(9)))


def test_initial_weights_equal_mamba_ssm(mamba_simple: ModuleType) -> None:
    torch.manual_seed(7)
    ours = MambaBlock(WIDTH).state_dict()
    torch.manual_seed(7)
    theirs = mamba_simple.Mamba(WIDTH).state_dict()
    torch.testing.assert_close(dict(ours), dict(theirs), rtol=0, atol=0)


@pytest.mark.usefixtures("double_references")
def test_kernel_gets_the_arguments_of_mamba_inner_fn(
    block: MambaBlock, mamba_simple: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces the kernel by its reference: a wrong order or layout of arguments gives other numbers."""
    from mamba_ssm.ops import selective_scan_interface as ops

    plain = output_and_gradients(block, sequence(17))
    calls = []

    def kernel_reference(*arguments: object, **named: object) -> Tensor:
        calls.append(arguments)
        return ops.mamba_inner_ref(*arguments, **named)

    monkeypatch.setattr(mamba_bdam, "_fused_kernel", lambda hidden, d_conv, scan: kernel_reference)
    assert_same(output_and_gradients(block, sequence(17)), plain)
    assert len(calls) == 1


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("causal_conv1d") is None,
    reason="needs a CUDA device with mamba_ssm and causal_conv1d",
)
def test_cuda_kernel_agrees_with_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda = MambaBlock(WIDTH).cuda()
    inputs = sequence(64).float().cuda()
    assert mamba_bdam._fused_kernel(inputs, 4, "auto") is not None
    fused = on_cuda(inputs)
    monkeypatch.setattr(mamba_bdam, "_fused_kernel", lambda hidden, d_conv, scan: None)
    torch.testing.assert_close(fused, on_cuda(inputs), rtol=1e-3, atol=1e-4)


def test_cpu_tensor_does_not_use_the_kernel(block: MambaBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        mamba_bdam, "_import_fused_kernel", lambda: pytest.fail("a CPU tensor asked for the CUDA kernel")
    )
    assert block.float()(sequence(3).float()).shape == (3, 3, WIDTH)  # float32, which the kernel supports


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Makes a CPU tensor count as one of CUDA, for tests of the choice of the kernel; yields the warnings."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    clear_kernel: Any = mamba_bdam._import_fused_kernel.cache_clear
    warn_once: Any = mamba_bdam.logger.warning_once
    clear_kernel()
    warn_once.cache_clear()
    yield caplog
    clear_kernel()


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError, AttributeError])
@pytest.mark.parametrize("stage", ["import", "call"])
def test_broken_mamba_ssm_falls_back_with_one_warning(
    error: type[Exception], stage: str, on_cuda: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise error("libcudart.so.11.0: cannot open\nshared object file")

    def lookup(name: str) -> object:
        return fail() if stage == "import" else fail

    interface = ModuleType("selective_scan_interface")
    interface.__getattr__ = lookup  # type: ignore[method-assign]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["mamba_ssm.ops"], "selective_scan_interface", interface, raising=False)
    blocks = [MambaBlock(WIDTH), MambaBlock(WIDTH)]
    for block in blocks * 2:
        assert block(sequence(3).float()).isfinite().all()
    (message,) = on_cuda.messages
    assert f"its kernel fails ({error.__name__}: libcudart.so.11.0: cannot open shared object file)" in message
    assert "the slower scan in PyTorch is used" in message
    monkeypatch.setenv("BDAM_MAMBA_SCAN", "fused")
    with pytest.raises(error if stage == "call" else RuntimeError, match="libcudart"):
        MambaBlock(WIDTH)(sequence(3).float())


def test_missing_mamba_ssm_is_not_reported(on_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["mamba_ssm", *filter(re.compile(r"mamba_ssm\.").match, sys.modules)]:
        monkeypatch.setitem(sys.modules, name, None)
    assert MambaBlock(WIDTH)(sequence(3).float()).shape == (3, 3, WIDTH)
    assert not on_cuda.messages


def _unexpected() -> None:
    pytest.fail("mamba_ssm was imported")


def test_variable_forces_the_scan(on_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_bdam, "_import_fused_kernel", _unexpected)
    monkeypatch.setenv("BDAM_MAMBA_SCAN", "pytorch")
    assert MambaBlock(WIDTH)(sequence(3).float()).shape == (3, 3, WIDTH)
    monkeypatch.setenv("BDAM_MAMBA_SCAN", "fused")
    with pytest.raises(RuntimeError, match=r"^BDAM_MAMBA_SCAN=fused, but mamba_ssm's kernel cannot be used: it needs"):
        MambaBlock(WIDTH).double()(sequence(3))  # float64
    monkeypatch.setenv("BDAM_MAMBA_SCAN", "fast")
    with pytest.raises(ValueError, match=r"^environment variable BDAM_MAMBA_SCAN=fast: must be auto, fused or pytorch"):
        MambaBlock(WIDTH)


def test_remote_code_does_not_require_mamba_ssm() -> None:
    required = set(get_imports(mamba_bdam.__file__)) - set(sys.stdlib_module_names)
    assert required == {"torch", "transformers"}


def test_chunks_do_not_change_the_scan(block: MambaBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = output_and_gradients(block, sequence(17))
    monkeypatch.setattr(mamba_bdam, "_CHUNK", 5 * 3 * block.A_log.numel())  # five steps of three sequences
    assert_same(output_and_gradients(block, sequence(17)), whole)


def test_block_is_causal(block: MambaBlock) -> None:
    inputs = sequence(12)
    changed = inputs.clone()
    changed[:, 7] += 1
    difference = (block(changed) - block(inputs)).abs().amax(dim=(0, 2))  # [L]
    assert difference[:7].max() == 0
    assert difference[7:].min() > 0


def test_batch_rows_do_not_mix(block: MambaBlock) -> None:
    inputs = sequence(5)
    torch.testing.assert_close(block(inputs)[1:2], block(inputs[1:2]), rtol=TOLERANCE, atol=TOLERANCE)


def test_each_parameter_has_a_gradient_at_length_one(block: MambaBlock) -> None:
    """A has no effect on one step; its gradient must be zeros, not None, for which DDP would wait."""
    block(sequence(1)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert block.A_log.grad is not None and not block.A_log.grad.any()


@pytest.mark.parametrize("length", [1, 33])
def test_bfloat16_is_close_to_float32(length: int) -> None:
    torch.manual_seed(0)
    module = MambaBlock(64)
    inputs = torch.randn(4, length, 64)
    expected = module(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(inputs)
    mixed.float().sum().backward()
    low = module.bfloat16()(inputs.bfloat16())
    for output in (mixed, low):
        assert output.dtype == torch.bfloat16
        assert (output.float() - expected).norm() / expected.norm() < 0.02
    assert module.A_log.grad is not None and module.A_log.grad.isfinite().all()


def test_init_weights_initializes_like_mamba() -> None:
    module = MambaBlock(WIDTH)
    for parameter in (module.A_log, module.D, module.dt_proj.weight, module.dt_proj.bias):
        nn.init.constant_(parameter, math.nan)
    module.init_weights()
    steps = F.softplus(module.dt_proj.bias)
    assert steps.min() >= 0.999e-3 and steps.max() <= 1.001e-1
    assert module.dt_proj.weight.abs().max() <= module.dt_rank**-0.5
    torch.testing.assert_close(module.A_log.exp(), torch.arange(1.0, 17.0).expand(2 * WIDTH, 16))
    assert (module.D == 1).all()


def test_init_weights_keeps_loaded_parameters() -> None:
    module = MambaBlock(WIDTH)
    loaded = (module.A_log, module.D, module.dt_proj.weight, module.dt_proj.bias)
    for parameter in loaded:
        nn.init.constant_(parameter, 0.25)
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # as from_pretrained marks it
    module.init_weights()
    assert all((parameter == 0.25).all() for parameter in loaded)


def test_block_compiles_without_graph_break() -> None:
    module = MambaBlock(WIDTH)
    inputs = sequence(3).float()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), module(inputs))


class CountElements(TorchDispatchMode):
    """Counts the elements of the results of all operations, those of the backward pass included."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.count += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def elements(module: nn.Module, length: int) -> int:
    inputs = torch.randn(2, length, 64, requires_grad=True)
    with CountElements() as counter:
        module(inputs).sum().backward()
    return counter.count


def test_work_is_linear_in_length() -> None:
    """Twice the work for twice the length, forward and backward; quadratic growth is four times."""
    module = MambaBlock(64)
    assert elements(module, 1024) / elements(module, 512) == pytest.approx(2, abs=0.05)
