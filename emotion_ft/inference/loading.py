"""A trained model and its front end, from a folder or the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from .. import run_folder
from ..errors import UsageError
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
from .fetch import fetch

FAULTS = (OSError, SafetensorError, StrictDataclassError, ValueError, TypeError, AttributeError, RuntimeError)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def load_settings(model: str | Path, revision: str = "main") -> tuple[ASTEmotionConfig, ASTEmotionFeatureExtractor]:
    """A model's configuration and feature extractor, from a folder or the Hub, without its weights.

    Raises:
        UsageError: when there is no such model, or it is not one of ours.
    """
    return _settings(model, fetch(model, revision))


def _settings(model: str | Path, folder: Path) -> tuple[ASTEmotionConfig, ASTEmotionFeatureExtractor]:
    missing = [name for name in (run_folder.MODEL_CONFIG, run_folder.FRONT_END) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"no model in '{model}': no {', no '.join(missing)}.")
    with _loading_errors(model, folder):
        config, _ = ASTEmotionConfig.get_config_dict(folder)
        front_end, _ = ASTEmotionFeatureExtractor.get_feature_extractor_dict(folder)
        kinds = config.get("model_type"), front_end.get("feature_extractor_type")
        if kinds != (ASTEmotionConfig.model_type, ASTEmotionFeatureExtractor.__name__):
            raise UsageError(f"'{model}' holds no model of emotion_ft, but type {kinds[0]} with front end {kinds[1]}.")
        return ASTEmotionConfig.from_pretrained(folder), ASTEmotionFeatureExtractor.from_pretrained(folder)


def load_model(
    model: str | Path, revision: str = "main"
) -> tuple[ASTForEmotionRegression, ASTEmotionFeatureExtractor]:
    """A model and its feature extractor, from a folder or the Hub, on the accelerator if there is one.

    Raises:
        UsageError: when there is no such model, it is not one of ours, or its weights are not safetensors.
    """
    folder = fetch(model, revision)
    config, extractor = _settings(model, folder)
    with _loading_errors(model, folder):
        loaded, loading = ASTForEmotionRegression.from_pretrained(folder, config=config, output_loading_info=True)
    if absent := sorted(loading["missing_keys"]):
        raise UsageError(
            f"'{model}' holds no model of emotion_ft: {len(absent)} tensors are missing, first {absent[0]}."
        )
    return loaded.to(torch.accelerator.current_accelerator(check_available=True) or "cpu"), extractor


@contextmanager
def _loading_errors(model: str | Path, folder: Path) -> Iterator[None]:
    """Turns what transformers raises for missing, damaged and foreign files into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except FAULTS as error:
        reason = " ".join(str(error).split())
        if "no file named model.safetensors" in reason and (pickles := find_pickles(folder)):
            reason = f"its weights are a pickle, {pickles[0]}, which may run code: save them as model.safetensors."
        raise UsageError(f"no model in '{model}': {reason}") from error


def find_pickles(folder: str | Path) -> list[str]:
    """Names of the files in a folder that torch would unpickle."""
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix in PICKLED)
