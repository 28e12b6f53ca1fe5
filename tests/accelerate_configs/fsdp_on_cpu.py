"""Runs `run_t2i_reid.py` with FSDP on CPUs, for the tests; accelerate 1.15 supports FSDP only on accelerators.

Launch it with `fsdp_cpu_2.yaml`. It patches two methods of accelerate: the backend is gloo with the distributed type of
several GPUs, and the device is the CPU. Everything else, such as the sharding, is the same as on GPUs.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState

sys.path.insert(0, str(Path(__file__).parents[2]))


def _prepare_backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


def _set_device(state: PartialState) -> None:
    state.device = torch.device("cpu")


if __name__ == "__main__":
    import run_t2i_reid
    from modeling_bdam.training.gathering import end_process_group

    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = _prepare_backend
    PartialState.set_device = _set_device
    run_t2i_reid.main()
    end_process_group()
