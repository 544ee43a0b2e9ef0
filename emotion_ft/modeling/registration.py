"""Registers the models, the feature extractor and the pipeline with transformers before any of them is imported.

transformers looks models up by the names in their configurations. `register_lazily` puts stand-ins under these names,
which import the classes when they are first used. It does so once transformers has imported the module that holds a
registry, so that neither transformers nor torch is imported for it.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


class _StandIn:
    """Stands for a class in a registry of transformers, and imports it when an attribute or an instance is wanted."""

    def __init__(self, module: str, name: str):
        self.__module__ = module
        self.__name__ = name

    def _load(self) -> Any:
        return getattr(import_module(self.__module__), self.__name__)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked for by copy, pickle and inspect
            raise AttributeError(attribute)
        return getattr(self._load(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)


def _register_configurations(module: ModuleType) -> None:
    for model_type, name in (("ast-emotion", "ASTEmotionConfig"), ("mel-gan", "MelGanConfig")):
        module.CONFIG_MAPPING.register(model_type, _StandIn(__package__, name))


def _register_feature_extractor(module: ModuleType) -> None:
    extractor = _StandIn(__package__, "ASTEmotionFeatureExtractor")
    module.FEATURE_EXTRACTOR_MAPPING.register("ASTEmotionConfig", extractor)


def _register_pipeline(module: ModuleType) -> None:
    if "music-emotion" not in module.PIPELINE_REGISTRY.get_supported_tasks():
        module.PIPELINE_REGISTRY.register_pipeline(
            "music-emotion",
            pipeline_class=_StandIn(f"{__package__}.pipeline_ast_emotion", "MusicEmotionPipeline"),
            pt_model=module.AutoModelForAudioClassification,
            type="audio",
        )


_REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractor,
    "transformers.pipelines": _register_pipeline,
}


class _RegisteringLoader(SourceFileLoader):
    """Runs a module of transformers, then registers with it; imports nothing, so that no import waits for another."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _REGISTRATIONS[module.__name__](module)


class _RegisteringFinder:
    """Finds the modules of `_REGISTRATIONS` where Python would, and has them run by a `_RegisteringLoader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _REGISTRATIONS else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RegisteringLoader(spec.loader.name, spec.loader.path)
        return spec


def register_lazily() -> None:
    """Make transformers' Auto classes know our models, and `pipeline` the task "music-emotion"; at most once."""
    if any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _RegisteringFinder())
    for name, register in _REGISTRATIONS.items():
        if name in sys.modules:
            register(import_module(name))  # waits for another thread that is importing it
