"""Cards of finished runs, GANs and prepared collections, rendered from what their folders hold."""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from huggingface_hub import CardData, DatasetCardData, EvalResult, ModelCardData, RepoCard

from .. import run_folder
from ..data.prepared import COLLECTION_NAME, LABELS, LOG_MELS, SUFFIX, read_about
from ..errors import UsageError
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor
from ..scoring.curves import ROWS
from ..scoring.metrics import DIMENSIONS, METRICS
from . import gan, tables
from .environment import install_line
from .templates import template

logger = logging.getLogger(__name__)

NAMES = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "r": "Pearson's r", "ccc": "CCC"}
HUB_METRICS = {"rmse": "rmse", "mae": "mae", "r2": "r_squared", "r": "pearsonr", "ccc": "ccc"}
SETTINGS = {
    "data": "labels exchanged_ids label_weights group_by_artist validation_fraction test_fraction",
    "spec_augment": "time_masks time_mask_frames frequency_masks frequency_mask_bins",
    "model": "loss head_dropout lora_rank lora_targets",
    "training": "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps "
    "backbone_learning_rate head_learning_rate freeze unfreeze_at backbone_warmup lr_scheduler_type warmup_steps "
    "weight_decay max_grad_norm early_stopping_patience metric_for_best_model precision seed",
    "synthetic": "synthetic_fraction confirm_within",
}
"""What a reader needs to judge or repeat a run, without the folders and names of the machine."""


class _Subject(NamedTuple):
    """How a card refers to its subject: the name in the title, and the arguments that its examples load it with."""

    name: str
    place: str  # Python: '"you/model"' or '"you/model", revision="dev"'


BLANK = _Subject("emotion_ft-name", "emotion_ft-place")


def _subject(folder: Path, repo_id: str | None = None, revision: str | None = None) -> _Subject:
    """A folder, or its repository on the Hub."""
    place = f'"{repo_id or folder.as_posix()}"' + (f', revision="{revision}"' if revision else "")
    return _Subject(folder.resolve().name, place)


def write_model_card(folder: str | Path, model_id: str | None = None, results: dict[str, Any] | None = None) -> Path:
    """Write `README.md`, the model card of a run.

    Args:
        folder: of the run, or of a download of its repository.
        model_id: the repository that the card's examples load; None: the folder.
        results: of the run; None: those in its folder, or a `UsageError` if it holds no finished run.
    """
    folder = Path(folder)
    return _write(folder, _model_card(folder, _subject(folder, model_id), results))


def write_gan_card(folder: str | Path, model_id: str | None = None, results: dict[str, Any] | None = None) -> Path:
    """Write `README.md`, the card of a GAN; arguments and errors as for `write_model_card`."""
    folder = Path(folder)
    return _write(folder, _gan_card(folder, _subject(folder, model_id), results))


def write_data_card(folder: str | Path, data_id: str | None = None) -> Path:
    """Write `README.md`, the card of a prepared collection; its metadata let `load_dataset` read the folder.

    The card's example loads the dataset `data_id` on the Hub, or by default the folder. Raises `UsageError` if the
    folder holds no prepared collection.
    """
    folder = Path(folder)
    return _write(folder, _data_card(folder, _subject(folder, data_id)))


def write_validation_card(
    folder: str | Path, results: dict[str, Any], config: dict[str, dict[str, Any]], model_id: str | None = None
) -> Path:
    """Write `README.md` for a model that has no test scores; the card says so.

    Args:
        folder: of the model and its feature extractor.
        results: as those of a run: `protocol`, `collections`, `train_songs`, `validation_songs`, `epochs`,
            `train_runtime` and those of `environment`; `eval_valence_rmse` and so on if there are validation scores.
        config: settings by section, as in `config.yaml`.
        model_id: as for `write_model_card`.
    """
    folder, scores = Path(folder), {key: results[f"eval_{key}"] for key in tables.COLUMNS if f"eval_{key}" in results}
    shown = {}
    if len(scores) == len(tables.COLUMNS):
        shown["validation"] = tables.markdown_table(pd.DataFrame([scores], index=["model, validation songs"]))
    return _write(folder, _card_of_model(folder, _subject(folder, model_id), results, config, shown))


def card_for(folder: str | Path, repo_id: str, revision: str | None = None) -> str:
    """The card of a finished folder, with examples that load it from a repository on the Hub.

    A card that was edited by hand is returned as it is. Raises `UsageError` if the folder holds nothing finished.
    """
    folder = Path(folder)
    card = _data_card if (folder / COLLECTION_NAME).is_file() else _model_card
    card = _gan_card if (folder / run_folder.QUALITY).is_file() else card
    written = (folder / run_folder.CARD).read_text(encoding="utf-8")
    pattern = re.escape(card(folder, BLANK))
    for field, blank in BLANK._asdict().items():
        first, *others = pattern.split(re.escape(blank))
        pattern = f"(?P<{field}>.+)".join([first, f"(?P={field})".join(others)]) if others else first
    if re.fullmatch(pattern, written):
        return card(folder, _subject(folder, repo_id, revision))
    logger.info("%s was edited and is used as it is.", folder / run_folder.CARD)
    return written


def _model_card(folder: Path, subject: _Subject, results: dict[str, Any] | None = None) -> str:
    results = results or _results(folder, run_folder.SCORES)
    scores = pd.read_csv(folder / run_folder.SCORES, index_col=["labels", "system"])
    shown = {name: tables.markdown_table(block) for name, block in tables.blocks(scores).items()}
    curve_scores, path = tables.read_curve_scores(folder), folder / run_folder.CONFIG
    curve_table = None if curve_scores is None else curve_scores.rename(index=ROWS).to_markdown(floatfmt=".3f")
    config = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return _card_of_model(folder, subject, results, config, shown, curve_table, tables.comparison_line(scores))


def _gan_card(folder: Path, subject: _Subject, results: dict[str, Any] | None = None) -> str:
    results = results or _results(folder, run_folder.QUALITY)
    table = pd.read_csv(folder / run_folder.QUALITY, index_col="windows").rename_axis(None)
    cells = table.map(lambda value: "" if pd.isna(value) else f"{value:.3f}").to_markdown(disable_numparse=True)
    data = ModelCardData(library_name="transformers", tags=["music-emotion-recognition", "gan", "emotion_ft"])
    legend = gan.LEGEND.format(run="a model fine-tuned on the same training songs")
    return _render(folder, data, "emotion_gan.md", subject, results, table=cells, legend=legend)


def _data_card(folder: Path, subject: _Subject) -> str:
    about = read_about(folder)
    files = {treatment: f"{LABELS}/{treatment}{SUFFIX}" for treatment in about["descriptions"]}
    treatments, labels = list(files), list(DIMENSIONS)
    tables_of = {name: pd.read_parquet(folder / path, columns=labels) for name, path in files.items()}
    statistics = {name: table.agg(["mean", "std"]) for name, table in tables_of.items()}
    files |= {LOG_MELS: f"{LOG_MELS}/*{SUFFIX}"}
    configs = [{"config_name": name, "data_files": path} for name, path in files.items()]
    data = DatasetCardData(
        task_categories=["audio-classification"],
        tags=["music-emotion-recognition", "valence-arousal", "log-mel", "emotion_ft"],
        configs=[configs[0] | {"default": True}, *configs[1:]],
    )
    values = {"what": "log-mels", "treatments": treatments, "statistics": statistics}
    return _fill(data, "emotion_data.md", subject, about.pop("collections"), **values, **about)


def _card_of_model(
    folder: Path,
    subject: _Subject,
    results: dict[str, Any],
    config: dict[str, dict[str, Any]],
    shown: dict[str, str],
    curve_table: str | None = None,
    comparison: str | None = None,
) -> str:
    finished, collections = "test_songs" in results, results["collections"]
    base_model, checkpoint = results.get("base_model"), config.get("model", {}).get("checkpoint")
    # Known only where nobody else was involved: the run rendered its own songs and started from random weights.
    rendered = {kind for _, kind in _kinds(collections)} == {"rendered"}
    ours = rendered and bool(config.get("data", {}).get("rendered_songs")) and not checkpoint
    # No pipeline_tag: the Hub's audio-classification would rank valence against arousal as two classes.
    data = ModelCardData(
        model_name=subject.name,
        library_name="transformers",
        license="apache-2.0" if ours else None,
        base_model=base_model,
        tags=["music-emotion-recognition", "valence-arousal", "emotion_ft"],
        metrics=[HUB_METRICS[metric] for metric in METRICS] if shown else None,
        eval_results=_eval_results(results) if finished else None,
    )
    settings = {
        section: {key: config[section][key] for key in keys.split() if key in config[section]}
        for section, keys in SETTINGS.items()
        if section in config and (section != "synthetic" or results.get("synthetic_windows"))
    }
    values = {"finished": finished, "tables": shown, "curve_table": curve_table, "legend": tables.LEGEND, "ours": ours}
    values |= {"comparison": comparison}
    values |= {"base_model": base_model, "checkpoint": checkpoint, "config": config}
    values |= {"settings": yaml.safe_dump(settings, sort_keys=False) if settings else None}
    values |= {"audit": (folder / run_folder.AUDIT / run_folder.AUDIT_REPORT).is_file()}
    values |= {"interval_line": tables.interval_line(results) if "interval_level" in results else None}
    values["architecture"] = ASTEmotionConfig.from_pretrained(folder)
    values["deam_distributed"] = any(c["source"] == "DEAM" and c["labels"] == "distributed" for c in collections)
    return _render(folder, data, "emotion_model.md", subject, results, **values)


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """The model's test scores, as the Hub's metadata."""
    kinds = _kinds(results["collections"])
    rendered = {kind for _, kind in kinds} == {"rendered"}
    names = "rendered" if rendered else " + ".join(name for name, _ in kinds).lower()
    task: dict[str, Any] = {"task_type": "audio-classification", "task_name": "Music emotion regression"}
    task |= {"dataset_type": names, "dataset_name": results["protocol"], "dataset_split": "test"}
    return [
        EvalResult(
            **task, metric_type=f"{d}_{m}", metric_name=f"{d} {NAMES[m]}", metric_value=results[f"test_{d}_{m}"]
        )
        for d in DIMENSIONS
        for m in METRICS
    ]


def _render(
    folder: Path, data: ModelCardData, name: str, subject: _Subject, results: dict[str, Any], **values: Any
) -> str:
    """The card of a folder with results and a front end."""
    extractor = ASTEmotionFeatureExtractor.from_pretrained(folder)
    seconds = (extractor.max_length - 1) * extractor.hop_length / extractor.sampling_rate
    plots = {path.name for path in folder.glob(f"{run_folder.PLOTS}/*.png")}
    values |= {"results": results, "extractor": extractor, "window_seconds": f"{seconds:g}", "plots": plots}
    return _fill(data, name, subject, results["collections"], what="weights", **values)


def _fill(data: CardData, name: str, subject: _Subject, collections: list[dict[str, Any]], **values: Any) -> str:
    """Fill a template of `hub_cards/`."""
    kinds, labels = _kinds(collections), {collection["labels"] for collection in collections}
    values |= {"collections": kinds, "kinds": sorted({kind for _, kind in kinds}), "labels": labels}
    values |= {"card_data": data.to_yaml(), "model_name": subject.name, "place": subject.place}
    return str(RepoCard(template(name).render(install=install_line(), **values), ignore_metadata_errors=False))


def _write(folder: Path, card: str) -> Path:
    path = folder / run_folder.CARD
    path.write_text(card, encoding="utf-8")
    return path


def _results(folder: Path, table: str) -> dict[str, Any]:
    """`all_results.json` of a folder that also has its table."""
    if missing := [name for name in (run_folder.RESULTS, table) if not (folder / name).is_file()]:
        raise UsageError(f"no card for '{folder}': it holds no finished run, no {', no '.join(missing)}.")
    return run_folder.read_results(folder)


def _kinds(collections: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each collection's name and kind: "DEAM", "rendered" or "other"; songs of unknown origin count as "other"."""
    names = [(collection["source"], collection["rendered"]) for collection in collections]
    kinds = [(name, "rendered" if rendered else "DEAM" if name == "DEAM" else "other") for name, rendered in names]
    return kinds or [("", "other")]
