"""The learning curve of a training, as a plot."""

from pathlib import Path

from matplotlib.figure import Figure
from transformers import TrainerState

from .. import run_folder
from ..scoring.metrics import DIMENSIONS


def save_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write a figure into `plots/` in the folder."""
    path = Path(folder, run_folder.PLOTS, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def plot_learning_curve(folder: str | Path, state: TrainerState, unfreeze_at: float) -> Path:
    """Write `plots/learning_curve.png`: losses, validation CCC and R², and both learning rates against epochs.

    A line marks the share `unfreeze_at` of the training after which the backbone was unfrozen.
    """
    epochs = state.epoch or 0.0
    unfrozen = unfreeze_at * state.max_steps * epochs / state.global_step  # in epochs
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    losses, scores, rates = figure.subplots(1, 3)
    scored = {f"eval_{d}_{m}": f"{d} {m.upper()}" for d in DIMENSIONS for m in ("ccc", "r2")}
    panels = [
        (losses, "loss", {"loss": "train", "eval_loss": "validation"}, "linear"),
        (scores, "validation", scored, "linear"),
        (rates, "learning rate", {"backbone_lr": "backbone", "head_lr": "head"}, "log"),
    ]
    for axes, title, keys, scale in panels:
        for key, label in keys.items():
            points = [(entry["epoch"], entry[key]) for entry in state.log_history if key in entry]
            points = [point for point in points if scale == "linear" or point[1] > 0]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        if 0 < unfrozen < epochs:
            axes.axvline(unfrozen, color="grey", linestyle=":", label="unfrozen")
        axes.set(title=title, xlabel="epoch", yscale=scale)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return save_figure(figure, folder, "learning_curve.png")
