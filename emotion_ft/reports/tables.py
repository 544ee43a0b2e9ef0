"""The tables of a run, for terminals, cards and notebooks, and what their columns mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import run_folder
from ..scoring.curves import METRICS as CURVE_METRICS
from ..scoring.curves import ROWS
from ..scoring.metrics import DIMENSIONS, METRICS

TITLES = {"rmse": "RMSE", "mae": "MAE", "r2": "R2", "r": "r", "ccc": "CCC"}
COLUMNS = {f"{d}_{m}": f"{d[0].upper()} {TITLES[m]}" for d in DIMENSIONS for m in METRICS}
LEGEND = (
    "Valence (V) and arousal (A), RMSE and MAE on the 1-9 scale; below, 95 % bootstrap intervals over artists. ridge, "
    "svr: regressions on mel statistics; mean: the mean training label; ceiling: what a predictor of the true "
    "emotions would score, given the noise of its raters, by their deviations."
)


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


def scores_text(
    scores: pd.DataFrame,
    results: dict[str, Any],
    fold_scores: pd.DataFrame | None = None,
    curve_scores: pd.DataFrame | None = None,
) -> str:
    """For a terminal: tables under every treatment of the labels, what they mean, curves, and prediction intervals.

    Args:
        scores: of `scoring.scores.score_systems`.
        results: of the run; with `interval_level`, its prediction intervals are named.
        fold_scores: of the model in each fold, shown above its pooled scores.
        curve_scores: of emotion over time.
    """
    parts = []
    for index, (name, block) in enumerate(blocks(scores).items()):
        if index == 0 and fold_scores is not None:
            block = pd.concat([fold_scores, block.rename(index={"model": "model, pooled"})])
        parts.append(f"labels {name}\n\n{text_table(block)}\n")
    parts.append(LEGEND)
    if curve_scores is not None:
        over = "" if fold_scores is None else "mean over folds, "
        parts.append(f"\n{over}{curve_table(curve_scores)}")
    if "interval_level" in results:
        parts.append(f"\n{interval_line(results)}")
    return "\n".join(parts)


def scores_markdown(scores: pd.DataFrame, results: dict[str, Any]) -> str:
    """The same for a notebook, without curves, under the protocol."""
    parts = [f"{results['test_songs']} held-out songs. {results['protocol']}"]
    parts += [f"Labels {name}\n\n{markdown_table(block)}" for name, block in blocks(scores).items()]
    return "\n\n".join([*parts, LEGEND, *([interval_line(results)] if "interval_level" in results else [])])


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


def curve_table(scores: pd.DataFrame) -> str:
    """For a terminal."""
    titles = {f"{d}_{m}": f"{d[0].upper()} {m if m == 'r' else m.upper()}" for d in DIMENSIONS for m in CURVE_METRICS}
    table = scores.rename(columns=titles, index=ROWS).rename_axis(None)
    return f"curves at 2 Hz, in [-1, 1]:\n{table.to_string(float_format='{:.3f}'.format)}"


def read_curve_scores(folder: str | Path) -> pd.DataFrame | None:
    """The scores that a run has left in its folder; None where it has left none."""
    path = Path(folder, run_folder.CURVE_SCORES)
    return pd.read_csv(path, index_col="scored") if path.is_file() else None
