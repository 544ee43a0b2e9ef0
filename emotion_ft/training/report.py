"""What a run leaves behind: tables to print and to keep, `all_results.json`, plots of the training."""

import platform
from pathlib import Path
from typing import Any

import accelerate
import datasets
import numpy as np
import pandas as pd
import torch
import transformers
from matplotlib.figure import Figure
from transformers import TrainerState

from .. import __version__, run_folder
from ..scoring.metrics import DIMENSIONS, METRICS

TITLES = {"rmse": "RMSE", "mae": "MAE", "r2": "R2", "r": "r", "ccc": "CCC"}
COLUMNS = {f"{d}_{m}": f"{d[0].upper()} {TITLES[m]}" for d in DIMENSIONS for m in METRICS}
LEGEND = (
    "Valence (V) and arousal (A), RMSE and MAE on the 1-9 scale; below, 95 % bootstrap intervals over artists. ridge, "
    "svr: regressions on mel statistics; mean: the mean training label; ceiling: what a predictor of the true "
    "emotions would score, given the noise of its raters, by their deviations."
)


def score_table(scores: pd.DataFrame | dict[str, dict[str, float]]) -> pd.DataFrame:
    """Rows with the keys of `metrics.score` -> a table with a column a dimension and metric."""
    rows = scores if isinstance(scores, pd.DataFrame) else pd.DataFrame.from_dict(scores, orient="index")
    return rows[list(COLUMNS)].rename(columns=COLUMNS)


def _cells(row: pd.Series) -> tuple[list[str], list[str]]:
    """The values of a row and their intervals, empty where there are none."""
    values, intervals = [], []
    for key in COLUMNS:
        values.append(f"{row[key]:z.3f}")
        low, high = row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)
        intervals.append("" if np.isnan(low) else f"[{low:z.2f}, {high:z.2f}]")
    return values, intervals


def text_table(scores: pd.DataFrame) -> str:
    """A row a system, its intervals in the line below, for a terminal."""
    lines, names = [], []
    for name, row in scores.iterrows():
        values, intervals = _cells(row)
        lines.append(values)
        names.append(name)
        if any(intervals):
            lines.append(intervals)
            names.append("")
    return pd.DataFrame(lines, index=names, columns=list(COLUMNS.values())).to_string()


def markdown_table(scores: pd.DataFrame) -> str:
    """A row a system, its intervals below the values, for cards."""
    rows = {
        name: ["<br>".join(filter(None, cell)).replace(" ", "&nbsp;") for cell in zip(*_cells(row), strict=True)]
        for name, row in scores.iterrows()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS.values())).to_markdown(
        disable_numparse=True
    )


def blocks(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Scores by the treatment of the labels, the run's own first."""
    return {name: scores.loc[name] for name in dict.fromkeys(scores.index.get_level_values(0))}


def print_scores(scores: pd.DataFrame, fold_scores: pd.DataFrame | None = None) -> None:
    """Print the table of every treatment of the labels, the folds' own above the first, and what they mean."""
    for index, (name, block) in enumerate(blocks(scores).items()):
        if index == 0 and fold_scores is not None:
            block = pd.concat([fold_scores, block.rename(index={"model": "model, pooled"})])
        print(f"labels {name}\n\n{text_table(block)}\n")
    print(LEGEND)


def interval_line(results: dict) -> str:
    """What the prediction intervals are, and how many test songs they held."""
    widths = ", ".join(
        f"{dimension} ± {results[f'interval_{dimension}']:.2f} holds {results[f'test_{dimension}_coverage']:.0%}"
        for dimension in DIMENSIONS
    )
    return (
        f"Intervals of level {results['interval_level']:g} (split conformal, from the validation songs), on test "
        f"songs: {widths}."
    )


def environment(device: torch.device) -> dict[str, Any]:
    """What a training ran on, for `all_results.json`: `versions` by package, and `device`."""
    versions = {"emotion_ft": __version__, "Python": platform.python_version()}
    versions |= {package.__name__: str(package.__version__) for package in (torch, transformers, datasets, accelerate)}
    name = f"CPU ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    processes = accelerate.PartialState().num_processes
    return {
        "versions": versions,
        "device": f"{processes} x {name}" if processes > 1 else name,
    }


def save_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write a figure into the folder's `plots/`."""
    path = Path(folder, run_folder.PLOTS, name)
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
            points = [point for point in points if scale == "linear" or point[1] > 0]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        if 0 < unfrozen < state.epoch:
            axes.axvline(unfrozen, color="grey", linestyle=":", label="unfrozen")
        axes.set(title=title, xlabel="epoch", yscale=scale)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return save_figure(figure, folder, "learning_curve.png")


def write_ablation(folder: str | Path, runs: pd.DataFrame, table: pd.DataFrame, protocol: str) -> None:
    """Write `ablation.csv`, a row a run, and `ablation.md`, the table under its protocol."""
    runs.to_csv(Path(folder, run_folder.ABLATION), index=False, float_format="%.5f")
    Path(folder, run_folder.ABLATION_TABLE).write_text(
        f"{protocol}\n\n{table.reset_index().to_markdown(index=False)}\n"
    )


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
