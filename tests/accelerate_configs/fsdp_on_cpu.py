"""`run_t2i_reid.py` under FSDP on CPUs, for the tests: accelerate (1.15) knows FSDP on accelerators alone.

Launch it with `fsdp_cpu_2.yaml`. Two answers of accelerate's are changed: that the processes talk over gloo as those of
several GPUs would, and that their device is the CPU. All else, the sharding above all, is what it does with GPUs.
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

    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = _prepare_backend
    PartialState.set_device = _set_device
    run_t2i_reid.main()
