"""Every file of an output folder: what it is, whether a fresh start removes it, and whether it travels to the Hub."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "all_results.json"
CONFIG = "config.yaml"
CARD = "README.md"
PAGE = "report.html"
PREDICTIONS = "predictions.csv"
SCORES = "scores.csv"
CURVE_SCORES = "curve_scores.csv"
FOLD_SCORES = "fold_scores.csv"
SONGS = "songs.csv"
BAD_FILES = "bad_files.csv"
QUALITY = "quality.csv"
PLOTS = "plots"
AUDIT = "audit"
AUDIT_REPORT = "audit.md"
AUDIT_SONGS = "audit.csv"
SPLITS = "splits"
TRACKING = "runs"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
MODEL_CONFIG = "config.json"
FRONT_END = "preprocessor_config.json"
PIPELINE = "pipeline_ast_emotion.py"
PIPELINE_CODE = (PIPELINE, "audio_ast_emotion.py")
ADAPTER = "adapter"
EMBEDDINGS = "embeddings-{}.safetensors"
CHECKPOINTS = "checkpoint-*"
GAN_STATE = "gan_state.json"
ONNX = "onnx"
DISCRIMINATOR = "discriminator"
REGRESSOR = "regressor"
FOLDS = "fold-*"
CROSS_VALIDATION = "cross_validation.json"
SEEDS = "seed-*"
SEEDS_NOTE = "seeds.json"
COMPARISON = "compare.csv"
COMPARISON_TABLE = "compare.md"
STUDY = "study.json"
ABLATION = "ablation.csv"
ABLATION_TABLE = "ablation.md"
LOG = "log.txt"
JOURNAL = "search.journal"
SEARCH = "search.csv"
SEARCH_SETTINGS = "search.json"
TRIAL = "trial-{}"


class Entry(NamedTuple):
    """One name of an output folder.

    Args:
        name: of a file or a folder, or a pattern of names.
        what: it is.
        cleared: whether a fresh start removes it; otherwise it would stand beside the next run and not belong to it.
        shared: patterns of the files that travel to the Hub. What no pattern names stays: checkpoints, lists of songs,
            and whatever else a folder gathers.
    """

    name: str
    what: str
    cleared: bool = True
    shared: tuple[str, ...] = ()


ENTRIES = (
    # First, so that a clearing that is cut short leaves no folder that looks finished.
    Entry(RESULTS, "all numbers; written last, so that its presence marks a finished run", shared=(RESULTS,)),
    Entry(WEIGHTS, "the model's weights", shared=(WEIGHTS,)),
    Entry("model-*-of-*.safetensors", "parts of larger weights", shared=("model-*-of-*.safetensors",)),
    Entry(WEIGHTS_INDEX, "which part holds which weight", shared=(WEIGHTS_INDEX,)),
    Entry(
        ADAPTER,
        "a LoRA adapter, which the weights contain already",
        shared=(f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors"),
    ),
    Entry(MODEL_CONFIG, "the model's configuration", shared=(MODEL_CONFIG,)),
    Entry(FRONT_END, "the front end", shared=(FRONT_END,)),
    Entry("*_ast_emotion.py", "the model's and the pipeline's code", shared=("*_ast_emotion.py",)),
    Entry("*_mel_gan.py", "a GAN's code", shared=("*_mel_gan.py",)),
    Entry(CARD, "the card", shared=(CARD,)),
    Entry(PAGE, "the run on one page", shared=(PAGE,)),
    Entry(SCORES, "scores of every system with their intervals", shared=(SCORES,)),
    Entry(CURVE_SCORES, "scores of emotion over time", shared=(CURVE_SCORES,)),
    Entry(FOLD_SCORES, "scores of each fold", shared=(FOLD_SCORES,)),
    Entry(QUALITY, "how good a GAN's windows are", shared=(QUALITY,)),
    Entry(PREDICTIONS, "one row per held-out song"),
    Entry(SONGS, "one row per song: its side of the split and its labels"),
    Entry(BAD_FILES, "audio files that were left out, and why"),
    Entry(PLOTS, "pictures", shared=(f"{PLOTS}/*.png",)),
    Entry(AUDIT, "what is wrong with the collection", shared=(f"{AUDIT}/{AUDIT_REPORT}", f"{AUDIT}/{PLOTS}/*.png")),
    # Rewritten at once by every start; until then they may be what the start itself reads.
    Entry(CONFIG, "the configuration as resolved", cleared=False, shared=(CONFIG,)),
    Entry(SPLITS, "lists of song ids: train, validation, test", cleared=False, shared=(f"{SPLITS}/*.txt",)),
    Entry(TRACKING, "TensorBoard's curves"),
    Entry(CHECKPOINTS, "where a stopped run resumes"),
    Entry(EMBEDDINGS.format("*"), "what a frozen backbone makes of the songs"),
    Entry(ONNX, "the model as ONNX, in float32 and int8"),
    Entry(DISCRIMINATOR, "the GAN's discriminator"),
    Entry(REGRESSOR, "what teaches a GAN emotions"),
    Entry(FOLDS, "the run of each fold of a cross-validation"),
    Entry(SEARCH, "one row per trial of a search"),
    Entry(JOURNAL, "the trials of a search, as optuna keeps them"),
    Entry(SEARCH_SETTINGS, "what the trials of a search have in common"),
    Entry(TRIAL.format("*"), "what a trial of a search left"),
    Entry(CROSS_VALIDATION, "what the folds of a cross-validation are made of"),
    Entry(SEEDS, "the run of each seed"),
    Entry(SEEDS_NOTE, "what the runs of several seeds are made of"),
    Entry(COMPARISON, "scores of several runs, and the differences between them"),
    Entry(COMPARISON_TABLE, "the same as a table to read"),
)

SHARED = tuple(pattern for entry in ENTRIES for pattern in entry.shared)
MODEL_NEEDS = (CARD, MODEL_CONFIG, FRONT_END)


def fold_folder(folder: str | Path, fold: int) -> Path:
    """Where the run of a fold of a cross-validation lies."""
    return Path(folder, FOLDS.replace("*", str(fold)))


def seed_folder(folder: str | Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return Path(folder, SEEDS.replace("*", str(seed)))


def seed_folders(folder: str | Path) -> list[Path]:
    """The folders of all seeds in a folder, in the order of their seeds."""
    places = {place.name.removeprefix(SEEDS.rstrip("*")): place for place in Path(folder).glob(SEEDS)}
    return [places[seed] for seed in sorted(filter(str.isdecimal, places), key=int)]


def is_scored(folder: str | Path) -> bool:
    """Whether a folder holds a finished run of ours; stock Trainer writes an `all_results.json`, too."""
    return Path(folder, RESULTS).is_file() and Path(folder, SCORES).is_file()


def clear(folder: str | Path) -> None:
    """Remove a run from its folder, and leave everything that is not a run's."""
    for entry in ENTRIES:
        for old in Path(folder).glob(entry.name) if entry.cleared else ():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def write_results(folder: str | Path, results: dict[str, Any]) -> Path:
    """Write `all_results.json`, whole or not at all; it marks a run as finished, so it comes last.

    Raises:
        ValueError: for a number that is not finite, which JSON cannot hold.
    """
    path = Path(folder, RESULTS)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    return part.replace(path)


def read_results(folder: str | Path) -> dict[str, Any]:
    """What `write_results` wrote."""
    return json.loads(Path(folder, RESULTS).read_text())


def write_table(folder: str | Path, name: str, table: "pd.DataFrame") -> Path:
    """Write a table as CSV, with more digits than are ever printed, so that nothing is rounded twice."""
    path = Path(folder, name)
    table.to_csv(path, index=False, float_format="%.9g")
    return path
