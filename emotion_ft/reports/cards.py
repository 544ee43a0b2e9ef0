"""Cards of finished runs, GANs and prepared collections, from what their folders hold."""

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
from . import gan
from .environment import install_line
from .tables import COLUMNS, LEGEND, blocks, interval_line, markdown_table, read_curve_scores
from .templates import template

logger = logging.getLogger(__name__)

NAMES = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "r": "Pearson's r", "ccc": "CCC"}
HUB_METRICS = {"rmse": "rmse", "mae": "mae", "r2": "r_squared", "r": "pearsonr", "ccc": "ccc"}
# What a reader needs to judge or repeat a run. Folders and names of the machine are not among it.
SETTINGS = {
    "data": ("labels", "exchanged_ids", "label_weights", "group_by_artist", "validation_fraction", "test_fraction"),
    "spec_augment": ("time_masks", "time_mask_frames", "frequency_masks", "frequency_mask_bins"),
    "model": ("loss", "head_dropout"),
    "training": (
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "backbone_learning_rate",
        "head_learning_rate",
        "freeze",
        "unfreeze_at",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "early_stopping_patience",
        "metric_for_best_model",
        "precision",
        "seed",
    ),
    "synthetic": ("synthetic_fraction", "confirm_within"),
}


class Named(NamedTuple):
    """What a card calls its subject.

    Args:
        name: in the title.
        place: what its examples load, as Python: `"you/model"` or `"you/model", revision="dev"`.
    """

    name: str
    place: str

    @classmethod
    def of(cls, folder: Path, repo_id: str | None = None, revision: str | None = None) -> "Named":
        """The folder itself, or its repository on the Hub."""
        place = f'"{repo_id or folder.as_posix()}"' + (f', revision="{revision}"' if revision else "")
        return cls(folder.resolve().name, place)


BLANK = Named("emotion_ft-name", "emotion_ft-place")


def write_model_card(folder: str | Path, model_id: str | None = None, results: dict[str, Any] | None = None) -> Path:
    """Write `README.md`, the model card of a run.

    Args:
        folder: of the run, or a repository of the Hub with all its files.
        model_id: what the card's examples load: a repository of the Hub, or else the folder.
        results: of the run; by default those that its folder holds.

    Raises:
        UsageError: when the folder holds no finished run.
    """
    folder = Path(folder)
    return _write(folder, _model_card(folder, Named.of(folder, model_id), results))


def card_for(folder: str | Path, repo_id: str, revision: str | None = None) -> str:
    """The card of a finished folder for its repository on the Hub, from where its examples load it.

    A card that was edited by hand stays as it is.

    Raises:
        UsageError: when the folder holds nothing finished.
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
        return card(folder, Named.of(folder, repo_id, revision))
    logger.info("%s was edited: it is sent as it is.", folder / run_folder.CARD)
    return written


def _model_card(folder: Path, named: Named, results: dict[str, Any] | None = None) -> str:
    results = results or _results(folder, run_folder.SCORES)
    scores = pd.read_csv(folder / run_folder.SCORES, index_col=["labels", "system"])
    curve_scores = read_curve_scores(folder)
    config = folder / run_folder.CONFIG
    return _card_of_model(
        folder,
        named,
        results,
        yaml.safe_load(config.read_text()) if config.is_file() else {},
        {name: markdown_table(block) for name, block in blocks(scores).items()},
        curve_table=None if curve_scores is None else curve_scores.rename(index=ROWS).to_markdown(floatfmt=".3f"),
    )


def write_validation_card(
    folder: str | Path, results: dict[str, Any], config: dict[str, dict[str, Any]], model_id: str | None = None
) -> Path:
    """Write `README.md` for a model that has validation scores at most, and say so.

    Args:
        folder: with the model and its feature extractor.
        results: as those of a run: `protocol`, `collections`, `train_songs`, `validation_songs`, `epochs`,
            `train_runtime` and
            `tables.environment`; `eval_valence_rmse` and so on where validation songs were scored.
        config: settings by section, as in `config.yaml`.
        model_id: what the card's examples load: a repository of the Hub, or else the folder.
    """
    scores = {key: results[f"eval_{key}"] for key in COLUMNS if f"eval_{key}" in results}
    tables = {}
    if len(scores) == len(COLUMNS):
        tables["validation"] = markdown_table(pd.DataFrame([scores], index=["model, validation songs"]))
    folder = Path(folder)
    return _write(
        folder, _card_of_model(folder, Named.of(folder, model_id), results, config, tables, curve_table=None)
    )


def write_gan_card(folder: str | Path, model_id: str | None = None, results: dict[str, Any] | None = None) -> Path:
    """Write `README.md`, the card of a GAN.

    Args:
        folder: of the GAN.
        model_id: what the card's example loads: a repository of the Hub, or else the folder.
        results: of the GAN; by default those that its folder holds.

    Raises:
        UsageError: when the folder holds no finished GAN.
    """
    folder = Path(folder)
    return _write(folder, _gan_card(folder, Named.of(folder, model_id), results))


def _gan_card(folder: Path, named: Named, results: dict[str, Any] | None = None) -> str:
    results = results or _results(folder, run_folder.QUALITY)
    table = pd.read_csv(folder / run_folder.QUALITY, index_col="windows").rename_axis(None)
    cells = table.map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    data = ModelCardData(library_name="transformers", tags=["music-emotion-recognition", "gan", "emotion_ft"])
    return _render(
        folder,
        data,
        "emotion_gan.md",
        named,
        results,
        table=cells.to_markdown(disable_numparse=True),
        legend=gan.LEGEND.format(run="a model fine-tuned on the same training songs"),
    )


def write_data_card(folder: str | Path, data_id: str | None = None) -> Path:
    """Write `README.md`, the card of a prepared collection; its metadata let `load_dataset` read the folder.

    Args:
        folder: as `shards.finish_prepared` leaves it.
        data_id: what the card's example loads: a data set of the Hub, or else the folder.

    Raises:
        UsageError: when the folder holds no prepared collection.
    """
    folder = Path(folder)
    return _write(folder, _data_card(folder, Named.of(folder, data_id)))


def _data_card(folder: Path, named: Named) -> str:
    about = read_about(folder)
    treatments = list(about["descriptions"])
    statistics = {
        treatment: pd.read_parquet(folder / LABELS / f"{treatment}{SUFFIX}", columns=list(DIMENSIONS)).agg(
            ["mean", "std"]
        )
        for treatment in treatments
    }
    files = {treatment: f"{LABELS}/{treatment}{SUFFIX}" for treatment in treatments}
    files |= {LOG_MELS: f"{LOG_MELS}/*{SUFFIX}"}
    data = DatasetCardData(
        task_categories=["audio-classification"],
        tags=["music-emotion-recognition", "valence-arousal", "log-mel", "emotion_ft"],
        configs=[
            {"config_name": name, "data_files": path, **({"default": True} if name == treatments[0] else {})}
            for name, path in files.items()
        ],
    )
    return _fill(
        data,
        "emotion_data.md",
        named,
        about.pop("collections"),
        what="log-mels",
        treatments=treatments,
        statistics=statistics,
        **about,
    )


def _card_of_model(
    folder: Path,
    named: Named,
    results: dict[str, Any],
    config: dict[str, dict[str, Any]],
    tables: dict[str, str],
    curve_table: str | None,
) -> str:
    names = [name for name, _ in _kinds(results["collections"])]
    kinds = {kind for _, kind in _kinds(results["collections"])}
    base_model, checkpoint = results.get("base_model"), config.get("model", {}).get("checkpoint")
    # Known only where nobody else had a part in it: songs rendered by the run itself, and weights from random ones.
    ours = kinds == {"rendered"} and bool(config.get("data", {}).get("rendered_songs")) and not checkpoint
    eval_results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Music emotion regression",
            dataset_type="rendered" if kinds == {"rendered"} else " + ".join(names).lower(),
            dataset_name=results["protocol"],
            dataset_split="test",
            metric_type=f"{dimension}_{metric}",
            metric_name=f"{dimension} {NAMES[metric]}",
            metric_value=results[f"test_{dimension}_{metric}"],
        )
        for dimension in DIMENSIONS
        for metric in METRICS
        if "test_songs" in results
    ]
    # No pipeline_tag: the Hub's audio-classification would rank valence against arousal as two classes.
    data = ModelCardData(
        model_name=named.name,
        library_name="transformers",
        license="apache-2.0" if ours else None,
        base_model=base_model,
        tags=["music-emotion-recognition", "valence-arousal", "emotion_ft"],
        metrics=[HUB_METRICS[metric] for metric in METRICS] if tables else None,
        eval_results=eval_results or None,
    )
    settings = {
        section: {key: config[section][key] for key in keys if key in config[section]}
        for section, keys in SETTINGS.items()
        if section in config and (section != "synthetic" or results.get("synthetic_windows"))
    }
    return _render(
        folder,
        data,
        "emotion_model.md",
        named,
        results,
        finished="test_songs" in results,
        tables=tables,
        curve_table=curve_table,
        legend=LEGEND,
        deam_distributed=any(c["source"] == "DEAM" and c["labels"] == "distributed" for c in results["collections"]),
        interval_line=interval_line(results) if "interval_level" in results else None,
        audit=(folder / run_folder.AUDIT / run_folder.AUDIT_REPORT).is_file(),
        architecture=ASTEmotionConfig.from_pretrained(folder),
        base_model=base_model,
        checkpoint=checkpoint,
        config=config,
        settings=yaml.safe_dump(settings, sort_keys=False) if settings else None,
        ours=ours,
    )


def _render(folder: Path, data: ModelCardData, name: str, named: Named, results: dict, **values) -> str:
    """The card of a folder with results and a front end."""
    extractor = ASTEmotionFeatureExtractor.from_pretrained(folder)
    return _fill(
        data,
        name,
        named,
        results["collections"],
        what="weights",
        results=results,
        extractor=extractor,
        window_seconds=f"{(extractor.max_length - 1) * extractor.hop_length / extractor.sampling_rate:g}",
        plots={path.name for path in folder.glob(f"{run_folder.PLOTS}/*.png")},
        **values,
    )


def _fill(data: CardData, name: str, named: Named, collections: list[dict[str, Any]], **values) -> str:
    """Fill a template of `hub_cards/`."""
    kinds = _kinds(collections)
    text = template(name).render(
        card_data=data.to_yaml(),
        model_name=named.name,
        place=named.place,
        collections=kinds,
        kinds=sorted({kind for _, kind in kinds}),
        labels={collection["labels"] for collection in collections},
        install=install_line(),
        **values,
    )
    return str(RepoCard(text, ignore_metadata_errors=False))


def _write(folder: Path, card: str) -> Path:
    path = folder / run_folder.CARD
    path.write_text(card, encoding="utf-8")
    return path


def _results(folder: Path, table: str) -> dict[str, Any]:
    """`all_results.json` of a folder that has its table, too."""
    if missing := [name for name in (run_folder.RESULTS, table) if not (folder / name).is_file()]:
        raise UsageError(f"no card for '{folder}': it holds no finished run, no {', no '.join(missing)}.")
    return run_folder.read_results(folder)


def _kinds(collections: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each collection's name, and whether it is "DEAM", "rendered" or "other", as songs of unknown origin are."""
    if not collections:
        return [("", "other")]
    return [
        (c["source"], "rendered" if c["rendered"] else "DEAM" if c["source"] == "DEAM" else "other")
        for c in collections
    ]
