"""Plots of songs: labels and predictions on the plane, residuals, spectrograms, curves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.augment import EvaluationTransform
from ..data.front_end import FrontEnd
from ..data.scale import from_unit
from ..data.songs import CURVE_STEP
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import references, system_predictions
from .training_plots import save_figure

WORST = 6
QUADRANTS = {"V+ A+": (1, 1), "V- A+": (-1, 1), "V- A-": (-1, -1), "V+ A-": (1, -1)}
COLORS = dict(zip(DIMENSIONS, ("tab:orange", "tab:cyan"), strict=True))


def plot_held_out(
    folder: str | Path, table: pd.DataFrame, scores: pd.DataFrame, title: str, songs: Dataset, extractor: FrontEnd
) -> None:
    """Write the plots of held-out songs into `plots/`: the plane, the residuals by quadrant, the worst songs.

    `table` and `scores` are from `scoring.scores`; `songs` have stored log-mels and include the table's.
    """
    labels, predictions = references(table), system_predictions(table, "model")
    plot_valence_arousal(folder, labels, predictions, scores.iloc[0], title)
    plot_residuals(folder, labels, predictions)
    plot_worst_songs(folder, table, songs, extractor)


def plot_valence_arousal(
    folder: str | Path,
    references: np.ndarray,
    predictions: np.ndarray,
    scores: Mapping[str, float] | pd.Series,
    title: str,
) -> Path:
    """Write `plots/valence_arousal.png`: lines from label to prediction on the plane, and each dimension alone.

    `references` and `predictions` are (songs, 2) on 1-9; `scores` are from `metrics.score`.
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


def plot_residuals(folder: str | Path, references: np.ndarray, predictions: np.ndarray) -> Path:
    """Write `plots/residuals.png`: prediction - label, (songs, 2) each on 1-9, by quadrant of the label."""
    signs = np.where(references >= 5, 1, -1)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for column, (axes, dimension) in enumerate(zip(figure.subplots(1, 2, sharey=True), DIMENSIONS, strict=True)):
        inside = {name: (signs == sign).all(1) for name, sign in QUADRANTS.items()}
        residuals = [(predictions - references)[rows, column] for rows in inside.values()]
        shown = [values for values in residuals if len(values)]
        names = [f"{name}\n{len(values)} songs" for name, values in zip(inside, residuals, strict=True) if len(values)]
        axes.boxplot(shown, tick_labels=names, showmeans=True)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=dimension, ylabel="prediction - label" if column == 0 else None)
    return save_figure(figure, folder, "residuals.png")


def plot_worst_songs(folder: str | Path, table: pd.DataFrame, songs: Dataset, extractor: FrontEnd) -> Path:
    """Write `plots/worst_songs.png`: spectrograms of the songs with the largest errors on the plane, with curves."""
    distance = np.linalg.norm(system_predictions(table, "model") - references(table), axis=1)
    worst = table.assign(distance=distance).nlargest(WORST, "distance")
    row_of = {song_id: row for row, song_id in enumerate(songs["song_id"])}
    decode = EvaluationTransform(extractor).decode
    figure = Figure(figsize=(15, 3.3 * -(-len(worst) // 3)), layout="constrained")
    panels = np.ravel(figure.subplots(-(-len(worst) // 3), 3))
    for axes in panels[len(worst) :]:
        axes.set_axis_off()
    for axes, (_, entry) in zip(panels, worst.iterrows(), strict=False):
        row = songs[row_of[entry["song_id"]]]
        show_spectrogram(axes, decode(row["log_mel"]), extractor)
        if row["curve_valence"]:
            time = row["curve_start"] + CURVE_STEP * np.arange(len(row["curve_valence"]))
            curves = {name: from_unit(row[f"curve_{name}"]) for name in DIMENSIONS}
            show_curves(axes, time, curves, "annotated")
        pairs = [f"{d} {entry[d]:.1f}, predicted {entry[f'predicted_{d}']:.1f}" for d in DIMENSIONS]
        axes.set_title(f"{entry['audio']}: {entry['distance']:.1f} off\n{'; '.join(pairs)}", fontsize="small")
    return save_figure(figure, folder, "worst_songs.png")


def show_spectrogram(axes: Axes, log_mel: np.ndarray, extractor: FrontEnd) -> None:
    """Draw a log-mel (frames, mels) over seconds."""
    seconds = len(log_mel) * extractor.hop_length / extractor.sampling_rate
    image, extent = log_mel.T.astype(np.float32), (0, seconds, 0, log_mel.shape[1])
    axes.imshow(image, origin="lower", aspect="auto", cmap="magma", extent=extent, interpolation="nearest")
    axes.set(xlabel="seconds", ylabel="mel band")


def show_curves(axes: Axes, time: np.ndarray, curves: Mapping[str, np.ndarray], label: str) -> None:
    """Draw valence and arousal, on 1-9, over a spectrogram, with an axis of their own."""
    scale = axes.twinx()
    for name, values in curves.items():
        scale.plot(time, values, color=COLORS[name], linewidth=2, label=f"{name}, {label}")
    scale.set(ylim=(1, 9), ylabel="1-9")
    scale.legend(fontsize="x-small", loc="upper right")


def plot_curve(
    path: str | Path,
    log_mel: np.ndarray,
    time: np.ndarray,
    curves: Mapping[str, np.ndarray],
    extractor: FrontEnd,
    title: str,
) -> Path:
    """Write a plot of predicted curves over their song's spectrogram, as a .png file.

    `log_mel` is (frames, mels), `time` is (windows,) in seconds, `valence` and `arousal` are (windows,) each, on 1-9.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots()
    show_spectrogram(axes, log_mel, extractor)
    show_curves(axes, time, curves, "predicted")
    axes.set_title(title, fontsize="small")
    figure.savefig(path, dpi=120)
    return Path(path)
