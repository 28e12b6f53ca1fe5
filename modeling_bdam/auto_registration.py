"""Registers model type `bdam` with transformers' auto classes and pipelines without importing them.

`AutoModel.register` imports the auto classes, which takes seconds. transformers finds its own models by name instead:
tables map a model type to a module of `transformers.models` and a class in it, which is imported at first use. An
import hook adds this package to these tables, and the task `person-retrieval` to the pipelines, as soon as the modules
of transformers that define them are imported.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "bdam"
_TABLES = {
    "transformers.models.auto.auto_mappings": {
        "CONFIG_MAPPING_NAMES": "BDAMConfig",
        "PROCESSOR_MAPPING_NAMES": "BDAMProcessor",
    },
    "transformers.models.auto.modeling_auto": {"MODEL_MAPPING_NAMES": "BDAMModel"},
}
_PIPELINES = "transformers.pipelines"


def register(package: ModuleType) -> None:
    """Registers the classes of `package`: now where transformers' tables are imported, else on their import."""
    if _TABLES.keys().isdisjoint(sys.modules):
        sys.modules[f"transformers.models.{MODEL_TYPE}"] = package
    else:  # the auto classes have already read the tables
        from transformers import AutoConfig, AutoModel, AutoProcessor

        # exist_ok: a notebook may reload the package.
        AutoConfig.register(MODEL_TYPE, package.BDAMConfig, exist_ok=True)
        AutoModel.register(package.BDAMConfig, package.BDAMModel, exist_ok=True)
        AutoProcessor.register(package.BDAMConfig, package.BDAMProcessor, exist_ok=True)
    sys.meta_path.insert(0, _TableFinder())
    if _PIPELINES in sys.modules:
        _add_pipeline(sys.modules[_PIPELINES])


class _TableFinder(MetaPathFinder):
    """Import hook: runs the modules of `_TABLES` and the pipelines unchanged, then adds the entries of BDAM."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _PIPELINES and fullname not in _TABLES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            if fullname == _PIPELINES:
                _add_pipeline(module)
            for table, class_name in _TABLES.get(fullname, {}).items():
                getattr(module, table)[MODEL_TYPE] = class_name

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def _add_pipeline(pipelines: ModuleType) -> None:
    from transformers import AutoModel

    from .pipeline_bdam import PersonRetrievalPipeline as Pipeline

    registry = pipelines.PIPELINE_REGISTRY
    if "person-retrieval" not in registry.get_supported_tasks():  # a notebook may reload the package
        registry.register_pipeline("person-retrieval", pipeline_class=Pipeline, pt_model=AutoModel, type="multimodal")
