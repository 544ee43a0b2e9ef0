"""Results of a GAN's training: a table and a plot of its quality, and samples beside real windows."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import run_folder
from ..data.scale import from_unit
from ..scoring.metrics import DIMENSIONS
from .training_plots import save_figure

LEGEND = """\
FD: Fréchet distance to the reference windows between whitened mel statistics, which know nothing of emotion; FD share:
of the untrained generator's. In the row 'real', FD and FD std: mean and standard deviation of the distance between two
disjoint sets of as many real songs; percentile: how many percent of those are smaller. CCC: between the requested
emotion and the prediction of {run}, which was itself trained on the reference songs, or of a ridge regression on mel
statistics, which was not. across, within: diversity over all emotions and within one; nearest: distance to the nearest
training window; shares of real ones."""
COLUMNS = {"frechet": "FD", "frechet_share": "FD share", "frechet_std": "FD std", "frechet_percentile": "percentile"}
COLUMNS |= {"valence_ccc": "V CCC", "arousal_ccc": "A CCC"}
COLUMNS |= {"valence_ccc_ridge": "V CCC ridge", "arousal_ccc_ridge": "A CCC ridge"}
COLUMNS |= {"diversity_across": "across", "diversity_within": "within", "nearest": "nearest"}


def quality_table(rows: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Rows of `quality.QualityMeter` by name, as a table."""
    table = pd.DataFrame([{title: row.get(name) for name, title in COLUMNS.items()} for row in rows.values()])
    return table.set_index(pd.Index(rows, name="windows"))


def write_quality(folder: str | Path, table: pd.DataFrame) -> Path:
    """Write `quality.csv`, the table of `quality_table`."""
    return run_folder.write_table(folder, run_folder.QUALITY, table.reset_index())


def distance_line(results: dict[str, float]) -> str:
    """The Fréchet distance of the generator that was kept beside that of real windows, on one line."""
    return (
        f"Fréchet distance {results['frechet']:.3g}, larger than {results['frechet_percentile']:.0f} % of those "
        f"between two sets of {results['reporting_songs']} real songs ({results['real_frechet']:.3g} ± "
        f"{results['real_frechet_std']:.2g}), in {results['effective_dimension']:.1f} effective dimensions"
    )


def speed_line(results: dict[str, float | None], precision: str) -> str:
    """Speed and memory on one line."""
    parts = [f"generation {results['windows_per_second']:.0f} windows/s"]
    if results["steps_per_second"]:
        parts.append(f"training {results['steps_per_second']:.2f} steps/s in {precision}, measures apart")
    if results["peak_gpu_bytes"]:
        parts.append(f"peak GPU memory {results['peak_gpu_bytes'] / 2**30:.2f} GiB")
    return "; ".join(parts)


def plot_quality(folder: str | Path, history: list[dict[str, float]], real: dict[str, float]) -> Path:
    """Write `plots/quality.png`: every measure of a GAN against steps, with real windows as dotted lines."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    panels = {
        "Fréchet distance": {"frechet": "generated"},
        "fidelity, CCC": {
            f"{dimension}_ccc{suffix}": f"{dimension}, {judge}"
            for judge, suffix in (("AST", ""), ("ridge", "_ridge"))
            for dimension in DIMENSIONS
        },
        "diversity, share of real": {"diversity_across": "across", "diversity_within": "within", "nearest": "nearest"},
        "discriminator's accuracy": {"discriminator_accuracy": "smoothed"},
    }
    for axes, (title, keys) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for key, label in keys.items():
            (line,) = axes.plot([row["step"] for row in history], [row[key] for row in history], ".-", label=label)
            if key in real:
                axes.axhline(real[key], color=line.get_color(), linestyle=":")
        axes.set(title=title, xlabel="step")
        axes.legend(fontsize="small")
    figure.axes[0].set_yscale("log")
    return save_figure(figure, folder, "quality.png")


def plot_samples(folder: str | Path, step: int, made: np.ndarray, real: np.ndarray, axes: list[np.ndarray]) -> Path:
    """Write `plots/samples-<step>.png`: windows over the valence-arousal plane, generated and real side by side.

    `made` and `real` are (arousals, valences, frames, mels); real ones are from the training songs nearest to the
    emotions. `axes` are the requested valences and arousals, in [-1, 1], in ascending order.
    """
    figure = Figure(figsize=(15, 6), layout="constrained")
    gap, titles = 4, (f"generated, step {step}", "real, nearest training songs")
    for panel, windows, title in zip(figure.subplots(1, 2), (made, real), titles, strict=True):
        padded = np.pad(windows, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
        frames, mels = padded.shape[2:]
        mosaic = padded.transpose(0, 3, 1, 2).reshape(len(windows) * mels, -1)  # arousal and bands up, time right
        panel.imshow(mosaic, origin="lower", aspect="auto", vmin=-2.5, vmax=2.5, cmap="magma", interpolation="none")
        for values, size, place in zip(axes, (frames, mels), (panel.set_xticks, panel.set_yticks), strict=True):
            place(np.arange(len(values)) * size + size / 2, [f"{from_unit(value):.1f}" for value in values])
        panel.set(title=title, xlabel="valence, 1-9 (in a window: frames)", ylabel="arousal, 1-9 (in a window: bands)")
    return save_figure(figure, folder, f"samples-{step:06d}.png")
