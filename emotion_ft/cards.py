"""Finished runs and GANs to model cards."""

from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .modeling import ASTEmotionFeatureExtractor
from .templates import TEMPLATES
from .training import gan_report
from .training.curves import ROWS
from .training.metrics import DIMENSIONS, METRICS
from .training.report import LEGEND, blocks, interval_line, markdown_table

CARD_NAME = "README.md"
NAMES = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "r": "Pearson's r", "ccc": "CCC"}


def write_model_card(
    folder: str | Path,
    results: dict,
    scores: pd.DataFrame,
    curve_scores: pd.DataFrame | None = None,
    model_id: str | None = None,
) -> Path:
    """Write `README.md`, the model card of a run.

    Args:
        folder: of the run, with the model and its feature extractor.
        results: as they go into `all_results.json`: protocol, numbers of songs, `test_valence_rmse` and so on.
        scores: of `scores.score_systems`: the model beside its baselines.
        curve_scores: of `curves.score_curves`.
        model_id: what the card's example loads: a repository of the Hub, or else the folder.
    """
    folder = Path(folder)
    extractor = ASTEmotionFeatureExtractor.from_pretrained(folder)
    name = folder.resolve().name
    rendered = "rendered" in results["protocol"]
    collection = results["protocol"].split(";")[0]
    eval_results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Music emotion regression",
            dataset_type="rendered" if rendered else collection.lower(),
            dataset_name=results["protocol"],
            dataset_split="test",
            metric_type=f"{dimension}_{metric}",
            metric_name=f"{dimension} {NAMES[metric]}",
            metric_value=round(results[f"test_{dimension}_{metric}"], 4),
        )
        for dimension in DIMENSIONS
        for metric in METRICS
    ]
    data = ModelCardData(
        model_name=name,
        library_name="transformers",
        tags=["music-emotion-recognition", "valence-arousal", "emotion_ft"],
        eval_results=eval_results,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "emotion_model.md"),
        model_name=name,
        model_id=model_id or folder.as_posix(),
        tables={name: markdown_table(block) for name, block in blocks(scores).items()},
        legend=LEGEND,
        curve_table=None if curve_scores is None else curve_scores.rename(index=ROWS).to_markdown(floatfmt=".3f"),
        interval_line=interval_line(results) if "interval_level" in results else None,
        audit=(folder / "audit" / "audit.md").is_file(),
        rendered=rendered,
        window_seconds=f"{(extractor.max_length - 1) * extractor.hop_length / extractor.sampling_rate:g}",
        num_windows=extractor.num_windows,
        **results,
    )
    card.save(folder / CARD_NAME)
    return folder / CARD_NAME


def write_gan_card(folder: str | Path, results: dict, table: pd.DataFrame, model_id: str | None = None) -> Path:
    """Write `README.md`, the card of a GAN.

    Args:
        folder: of the GAN, with its feature extractor.
        results: as they go into `all_results.json`: protocol, the step that was kept and so on.
        table: of `gan_report.quality_table`.
        model_id: what the card's example loads: a repository of the Hub, or else the folder.
    """
    folder = Path(folder)
    extractor = ASTEmotionFeatureExtractor.from_pretrained(folder)
    name = folder.resolve().name
    data = ModelCardData(
        model_name=name, library_name="transformers", tags=["music-emotion-recognition", "gan", "emotion_ft"]
    )
    cells = table.map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "emotion_gan.md"),
        model_name=name,
        model_id=model_id or folder.as_posix(),
        table=cells.to_markdown(disable_numparse=True),
        legend=gan_report.LEGEND.format(run="a model fine-tuned on the same training songs"),
        samples=f"plots/samples-{results['step']:06d}.png",
        rendered="rendered" in results["protocol"],
        frames=extractor.max_length,
        mels=extractor.num_mel_bins,
        window_seconds=f"{(extractor.max_length - 1) * extractor.hop_length / extractor.sampling_rate:g}",
        **results,
    )
    card.save(folder / CARD_NAME)
    return folder / CARD_NAME
