"""What a run leaves behind: the table, `all_results.json`, `predictions.csv` and the plots."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from transformers import TrainerState

from .metrics import DIMENSIONS, METRICS

PREDICTIONS_NAME = "predictions.csv"
PLOTS_NAME = "plots"
TRACKING_NAME = "runs"  # where TensorBoard looks


def score_table(scores: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Rows of `metrics.score` by name -> a table with a column a dimension and metric."""
    titles = {"rmse": "RMSE", "mae": "MAE", "r2": "R2", "r": "r", "ccc": "CCC"}
    columns = [f"{dimension[0].upper()} {titles[metric]}" for dimension in DIMENSIONS for metric in METRICS]
    return pd.DataFrame(
        [[row[f"{dimension}_{metric}"] for dimension in DIMENSIONS for metric in METRICS] for row in scores.values()],
        index=list(scores),
        columns=columns,
    )


def write_results(folder: str | Path, results: dict[str, float | int | str]) -> Path:
    """Write `all_results.json`. It comes last: its presence marks a finished run."""
    path = Path(folder, "all_results.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    return part.replace(path)


def write_predictions(
    folder: str | Path, song_ids: list[int], references: np.ndarray, predictions: np.ndarray
) -> Path:
    """Write `predictions.csv`: a row a song, labels and predictions (songs, 2) on 1-9."""
    path = Path(folder, PREDICTIONS_NAME)
    table = pd.DataFrame({"song_id": song_ids})
    for column, dimension in enumerate(DIMENSIONS):
        table[dimension] = references[:, column]
        table[f"predicted_{dimension}"] = predictions[:, column]
    table.to_csv(path, index=False, float_format="%.4f")
    return path


def save_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write a figure into the folder's `plots/`."""
    path = Path(folder, PLOTS_NAME, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def plot_learning_curve(folder: str | Path, state: TrainerState, unfreeze_at: float) -> Path:
    """Write `plots/learning_curve.png`: losses, validation CCC and R², and both learning rates against epochs.

    Args:
        state: of the finished trainer.
        unfreeze_at: share of the training after which the backbone was unfrozen; marked by a line.
    """
    unfrozen = unfreeze_at * state.max_steps * state.epoch / state.global_step  # in epochs
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    panels = [
        (losses, "loss", {"loss": "train", "eval_loss": "validation"}, "linear"),
        (
            scores,
            "validation",
            {f"eval_{d}_{m}": f"{d} {m.upper()}" for d in DIMENSIONS for m in ("ccc", "r2")},
            "linear",
        ),
        (rates, "learning rate", {"backbone_lr": "backbone", "head_lr": "head"}, "log"),
    ]
    for axes, title, keys, scale in panels:
        for key, label in keys.items():
            points = [(entry["epoch"], entry[key]) for entry in state.log_history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        if 0 < unfrozen < state.epoch:
            axes.axvline(unfrozen, color="grey", linestyle=":", label="unfrozen")
        axes.set(title=title, xlabel="epoch", yscale=scale)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return save_figure(figure, folder, "learning_curve.png")


def plot_valence_arousal(
    folder: str | Path, references: np.ndarray, predictions: np.ndarray, scores: dict[str, float], title: str
) -> Path:
    """Write `plots/valence_arousal.png`: from label to prediction on the plane, and each dimension alone.

    Args:
        references, predictions: (songs, 2) on 1-9.
        scores: of `metrics.score`.
        title: the protocol that the scores belong to.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    plane, *dimensions = figure.subplots(1, 3)
    plane.plot(*np.stack([references, predictions]).transpose(2, 0, 1), color="0.8", linewidth=0.8, zorder=1)
    plane.scatter(*references.T, s=12, label="label", zorder=2)
    plane.scatter(*predictions.T, s=12, label="prediction", zorder=3)
    plane.axhline(5, color="0.6", linewidth=0.8)
    plane.axvline(5, color="0.6", linewidth=0.8)
    plane.set(xlabel="valence", ylabel="arousal", title="labels and predictions")
    plane.legend(fontsize="small")
    for column, (axes, dimension) in enumerate(zip(dimensions, DIMENSIONS, strict=True)):
        axes.plot([1, 9], [1, 9], color="0.6", linewidth=0.8)
        axes.scatter(references[:, column], predictions[:, column], s=12)
        numbers = [f"{name} {scores[f'{dimension}_{key}']:.2f}" for name, key in (("R²", "r2"), ("CCC", "ccc"))]
        axes.set(xlabel="label", ylabel="prediction", title=f"{dimension}: {', '.join(numbers)}")
    for axes in (plane, *dimensions):
        axes.set(xlim=(1, 9), ylim=(1, 9), aspect="equal")
    figure.suptitle(title, fontsize="small", wrap=True)
    return save_figure(figure, folder, "valence_arousal.png")


def write_ablation(folder: str | Path, runs: pd.DataFrame, table: pd.DataFrame, protocol: str) -> None:
    """Write `ablation.csv`, a row a run, and `ablation.md`, the table under its protocol."""
    runs.to_csv(Path(folder, "ablation.csv"), index=False, float_format="%.5f")
    Path(folder, "ablation.md").write_text(f"{protocol}\n\n{table.reset_index().to_markdown(index=False)}\n")


def plot_ablation(folder: str | Path, runs: pd.DataFrame, title: str) -> Path:
    """Write `plots/ablation.png`: R² and CCC of every arm against the number of training songs, ± one deviation."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = [(f"test_{d}_{m}", f"{d}, {t}") for m, t in (("r2", "R²"), ("ccc", "CCC")) for d in DIMENSIONS]
    arms = list(dict.fromkeys(runs["arm"]))
    for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for shift, arm in enumerate(arms):
            scores = runs[runs["arm"] == arm].groupby("songs")[column]
            mean, deviation = scores.mean(), scores.std(ddof=1)
            places = mean.index * 1.02 ** (shift - (len(arms) - 1) / 2)  # beside each other
            axes.errorbar(places, mean, deviation, marker="o", capsize=3, label=arm)
        axes.set(title=label, xlabel="training songs", xscale="log")
        axes.set_xticks(sorted(set(runs["songs"])), [str(size) for size in sorted(set(runs["songs"]))], minor=False)
        axes.minorticks_off()
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="x-small", wrap=True)
    return save_figure(figure, folder, "ablation.png")
