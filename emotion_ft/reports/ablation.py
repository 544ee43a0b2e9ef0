"""The results of an ablation as files: its runs, its table and a plot."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from .. import run_folder
from ..scoring.metrics import DIMENSIONS
from .training_plots import save_figure


def write_ablation(folder: str | Path, runs: pd.DataFrame, table: pd.DataFrame, protocol: str) -> None:
    """Write `ablation.csv`, one row per run, and `ablation.md`, the table under its protocol."""
    runs.to_csv(Path(folder, run_folder.ABLATION), index=False, float_format="%.5f")
    text = f"{protocol}\n\n{table.reset_index().to_markdown(index=False)}\n"
    Path(folder, run_folder.ABLATION_TABLE).write_text(text)


def plot_ablation(folder: str | Path, runs: pd.DataFrame, title: str) -> Path:
    """Write `plots/ablation.png`: R² and CCC of every arm against the number of training songs, ± one deviation."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = [(f"test_{d}_{m}", f"{d}, {t}") for m, t in (("r2", "R²"), ("ccc", "CCC")) for d in DIMENSIONS]
    arms, sizes = list(dict.fromkeys(runs["arm"])), sorted(set(runs["songs"]))
    for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for shift, arm in enumerate(arms):
            scores = runs[runs["arm"] == arm].groupby("songs")[column]
            mean, deviation = scores.mean(), scores.std(ddof=1)
            places = mean.index * 1.02 ** (shift - (len(arms) - 1) / 2)  # side by side
            axes.errorbar(places, mean, deviation, marker="o", capsize=3, label=arm)
        axes.set(title=label, xlabel="training songs", xscale="log")
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.minorticks_off()
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="x-small", wrap=True)
    return save_figure(figure, folder, "ablation.png")
