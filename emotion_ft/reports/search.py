"""The trials of a search for hyperparameters, as a plot."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from .training_plots import save_figure


def plot_search(folder: str | Path, trials: pd.DataFrame, metric: str, names: list[str]) -> Path:
    """Write `plots/search.png`: the score of every trial against its number and each of its hyperparameters.

    `trials` has the columns `trial`, `score` and `names`; rates that span decades are on a logarithmic axis.
    """
    figure = Figure(figsize=(3.4 * (len(names) + 1), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names) + 1, sharey=True), ["trial", *names], strict=True):
        axes.scatter(trials[name], trials["score"], c=trials["trial"], cmap="viridis", s=18)
        best = trials.dropna(subset="score").iloc[0]
        axes.scatter(best[name], best["score"], s=90, facecolors="none", edgecolors="crimson", label="best")
        axes.set(xlabel=name.replace("_", " "), xscale="log" if name.endswith("_rate") else "linear")
    figure.axes[0].set_ylabel(f"validation {metric}")
    figure.axes[0].legend(fontsize="small")
    return save_figure(figure, folder, "search.png")
