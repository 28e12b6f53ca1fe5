"""BDAM for Hugging Face Transformers: text-to-image person re-identification with decoupled identity and clothing.

Importing this package registers model type `bdam` with `AutoConfig`, `AutoModel` and `AutoProcessor`, and the pipeline
task `person-retrieval`. Classes are imported lazily, so the import takes milliseconds. `save_pretrained` copies the
model code into the checkpoint, for users without this package (`trust_remote_code=True`).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_registration import register

if TYPE_CHECKING:
    from .configuration_bdam import BDAMConfig as BDAMConfig
    from .evaluation.retrieval_metrics import retrieval_metrics as retrieval_metrics
    from .modeling_bdam import BDAMModel as BDAMModel
    from .outputs_bdam import BDAMFeatures as BDAMFeatures
    from .outputs_bdam import BDAMOutput as BDAMOutput
    from .processing_bdam import BDAMProcessor as BDAMProcessor
    from .training.trainer import BDAMTrainer as BDAMTrainer
    from .training.training_args import BDAMTrainingArguments as BDAMTrainingArguments

__version__ = "0.1.0"

_MODULES = {
    "BDAMConfig": "configuration_bdam",
    "BDAMFeatures": "outputs_bdam",
    "BDAMModel": "modeling_bdam",
    "BDAMOutput": "outputs_bdam",
    "BDAMProcessor": "processing_bdam",
    "BDAMTrainer": "training.trainer",
    "BDAMTrainingArguments": "training.training_args",
    "retrieval_metrics": "evaluation.retrieval_metrics",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module at first use, so that inference does not import training code."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


register(sys.modules[__name__])
