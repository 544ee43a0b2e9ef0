"""The results of an ablation as files: its runs, its table and a plot."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from .. import run_folder
from ..scoring.metrics import DIMENSIONS
from .training_plots import save_figure


class Difference(NamedTuple):
    """The mean difference of an arm to the first one on the same seeds, and its interval; NaN for a single seed."""

    songs: int
    arm: str
    seeds: int
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def write_ablation(
    folder: str | Path, runs: pd.DataFrame, table: pd.DataFrame, findings: list[str], protocol: str
) -> None:
    """Write `ablation.csv`, one row per run, and `ablation.md`, the table and its findings under its protocol."""
    runs.to_csv(Path(folder, run_folder.ABLATION), index=False, float_format="%.5f")
    said = "\n".join(f"- {finding}" for finding in findings)
    text = f"{protocol}\n\n{table.reset_index().to_markdown(index=False)}\n\n{said}\n"
    Path(folder, run_folder.ABLATION_TABLE).write_text(text)


def plot_ablation(folder: str | Path, runs: pd.DataFrame, paired: list[Difference], title: str) -> Path:
    """Write `plots/ablation.png`: scores of every arm against the number of training songs.

    R² and CCC ± one deviation, and the paired differences of mean CCC to the first arm with their intervals.
    """
    figure = Figure(figsize=(16, 4), layout="constrained")
    panels = [(f"test_{d}_{m}", f"{d}, {t}") for m, t in (("r2", "R²"), ("ccc", "CCC")) for d in DIMENSIONS]
    arms, sizes = list(dict.fromkeys(runs["arm"])), sorted(set(runs["songs"]))
    *of_scores, of_differences = figure.subplots(1, len(panels) + 1)
    for place, arm in enumerate(arms):
        aside, color = 1.02 ** (place - (len(arms) - 1) / 2), f"C{place}"  # side by side
        for axes, (column, label) in zip(of_scores, panels, strict=True):
            scores = runs[runs["arm"] == arm].groupby("songs")[column]
            mean = scores.mean()
            axes.errorbar(mean.index * aside, mean, scores.std(ddof=1), marker="o", capsize=3, color=color, label=arm)
            axes.set(title=label)
        for difference in (difference for difference in paired if difference.arm == arm):
            reach = difference.high - difference.mean
            of_differences.errorbar(
                difference.songs * aside, difference.mean, reach, marker="o", capsize=3, color=color
            )
    of_differences.axhline(0, color="grey", linewidth=1)
    of_differences.set(title=f"mean CCC minus {arms[0]}'s, 95 % intervals")
    for axes in figure.axes:
        axes.set(xlabel="training songs", xscale="log")
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.minorticks_off()
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="x-small", wrap=True)
    return save_figure(figure, folder, "ablation.png")
