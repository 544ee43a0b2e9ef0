"""An output folder as a repository: the files to upload, and the pipeline's code among them."""

import json
import re
from pathlib import Path

from .. import run_folder
from ..data.prepared import COLLECTION_NAME, FILES
from ..errors import UsageError
from ..inference.loading import find_pickles, load_model
from ..modeling import ASTEmotionConfig

TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


def shared_files(folder: str | Path, finished: bool = True) -> dict[str, Path]:
    """The files of a run, a GAN or a prepared collection that may be uploaded: paths by their names in the repository.

    Args:
        finished: whether a run must be finished, with results.

    Raises:
        UsageError: if the folder holds nothing finished, weights only as pickles, or a token in one of these files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no run in '{folder}': no such folder.")
    patterns = shared_patterns(folder)
    found = {
        path.relative_to(folder).as_posix(): path for pattern in patterns for path in sorted(folder.glob(pattern))
    }
    if COLLECTION_NAME not in found:
        _refuse_unfinished(folder, found, finished)
    for path in found.values():
        if path.suffix not in (".safetensors", ".png", ".parquet") and TOKEN.search(path.read_bytes()):
            raise UsageError(f"'{path}' holds what looks like a token of the Hub: remove it, and revoke the token.")
    return found


def shared_patterns(folder: Path) -> tuple[str, ...]:
    """The names that may be uploaded: those of a prepared collection, or of a run."""
    return (run_folder.CARD, *FILES) if (folder / COLLECTION_NAME).is_file() else run_folder.SHARED


def _refuse_unfinished(folder: Path, found: dict[str, Path], finished: bool) -> None:
    weights = run_folder.WEIGHTS in found or run_folder.WEIGHTS_INDEX in found
    if not weights and (pickles := find_pickles(folder)):
        raise UsageError(
            f"'{folder}' holds its weights as a pickle, {pickles[0]}, which runs code when it is loaded: save them "
            "with save_pretrained, as model.safetensors."
        )
    needed = [*run_folder.MODEL_NEEDS, *([run_folder.RESULTS] if finished else [])]
    if run_folder.MODEL_CONFIG in found and model_type(found[run_folder.MODEL_CONFIG]) == ASTEmotionConfig.model_type:
        needed += run_folder.PIPELINE_CODE
    if missing := [name for name in needed if name not in found] + [run_folder.WEIGHTS] * (not weights):
        raise UsageError(
            f"'{folder}' holds no finished run: no {', '.join(missing)}; finetune and train_gan write them when they "
            "finish."
        )


def model_type(config: str | Path) -> str | None:
    """The `model_type` in a `config.json`."""
    return json.loads(Path(config).read_text()).get("model_type")


def add_pipeline(folder: str | Path) -> None:
    """Add the pipeline's code to a folder, and its name to `config.json`, next to the model's.

    With them, `pipeline("music-emotion", trust_remote_code=True)` works where emotion_ft is not installed.
    """
    from ..modeling.pipeline_ast_emotion import MusicEmotionPipeline

    model, extractor = load_model(folder)
    MusicEmotionPipeline(model.cpu(), feature_extractor=extractor, device="cpu").save_pretrained(folder)
