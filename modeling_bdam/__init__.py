"""BDAM for Hugging Face Transformers: person retrieval by text, with identity and clothing embedded apart.

Importing this package makes model type `bdam` known to `AutoConfig`, `AutoModel` and `AutoProcessor`. It costs next to
nothing: each class is imported at its first use. What `save_pretrained` writes carries the code itself, for readers
without the package (`trust_remote_code=True`).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_registration import register

if TYPE_CHECKING:
    from .configuration_bdam import BDAMConfig
    from .evaluation.retrieval_metrics import retrieval_metrics
    from .modeling_bdam import BDAMModel
    from .outputs_bdam import BDAMFeatures, BDAMOutput
    from .processing_bdam import BDAMProcessor
    from .training.trainer import BDAMTrainer
    from .training.training_args import BDAMTrainingArguments

__version__ = "0.1.0"

_HOMES = {
    "BDAMConfig": "configuration_bdam",
    "BDAMFeatures": "outputs_bdam",
    "BDAMModel": "modeling_bdam",
    "BDAMOutput": "outputs_bdam",
    "BDAMProcessor": "processing_bdam",
    "BDAMTrainer": "training.trainer",
    "BDAMTrainingArguments": "training.training_args",
    "retrieval_metrics": "evaluation.retrieval_metrics",
}


def __getattr__(name: str) -> Any:
    """Import a class from its module at first use: whoever only searches does not wait for training code."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


register(sys.modules[__name__])

__all__ = [
    "BDAMConfig",
    "BDAMFeatures",
    "BDAMModel",
    "BDAMOutput",
    "BDAMProcessor",
    "BDAMTrainer",
    "BDAMTrainingArguments",
    "retrieval_metrics",
]
