"""BDAM for Hugging Face Transformers: person retrieval by text, with identity and clothing embedded apart.

Importing this package registers model type `bdam` with `AutoConfig`, `AutoModel` and `AutoProcessor`. What
`save_pretrained` writes carries the code itself, for readers without the package (`trust_remote_code=True`).
"""

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_bdam import BDAMConfig
from .modeling_bdam import BDAMFeatures, BDAMModel, BDAMOutput
from .processing_bdam import BDAMProcessor
from .retrieval_metrics import retrieval_metrics

if TYPE_CHECKING:
    from .trainer import BDAMTrainer
    from .training_args import BDAMTrainingArguments

__version__ = "0.1.0"

# exist_ok: a notebook may reload the package.
AutoConfig.register("bdam", BDAMConfig, exist_ok=True)
AutoModel.register(BDAMConfig, BDAMModel, exist_ok=True)
AutoProcessor.register(BDAMConfig, BDAMProcessor, exist_ok=True)
BDAMConfig.register_for_auto_class()
BDAMModel.register_for_auto_class("AutoModel")
BDAMProcessor.register_for_auto_class()


def __getattr__(name: str) -> Any:
    """Import the trainer's classes at first use: encoding and searching should not wait for training code."""
    if name == "BDAMTrainer":
        from .trainer import BDAMTrainer

        return BDAMTrainer
    if name == "BDAMTrainingArguments":
        from .training_args import BDAMTrainingArguments

        return BDAMTrainingArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
