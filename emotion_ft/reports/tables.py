"""Score tables for terminals, cards and notebooks, and their legend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import run_folder
from ..scoring.curves import METRICS as CURVE_METRICS
from ..scoring.curves import ROWS
from ..scoring.intervals import share_interval
from ..scoring.metrics import DIMENSIONS, METRICS
from ..scoring.scores import DIFFERENCES

TITLES = {"rmse": "RMSE", "mae": "MAE", "r2": "R2", "r": "r", "ccc": "CCC"}
COLUMNS = {f"{d}_{m}": f"{d[0].upper()} {TITLES[m]}" for d in DIMENSIONS for m in METRICS}
LEGEND = (
    "Valence (V) and arousal (A), RMSE and MAE on the 1-9 scale; below, 95 % jackknife-t intervals over artists. "
    "ridge, svr: regressions on mel statistics; mean: the mean training label; ceiling: what a predictor of the true "
    "emotions would score, given the raters' noise, by their deviations. model - ridge: the difference between their "
    "scores on the same songs; where its interval contains 0, no difference is shown."
)
COMPARED = "mean_ccc"
"""What sentences compare systems by, as it selects the checkpoint."""


def _cells(row: pd.Series) -> tuple[list[str], list[str]]:
    """A row's values and their intervals as text; an interval is empty where there is none."""
    values, intervals = [], []
    for key in COLUMNS:
        values.append(f"{row[key]:z.3f}")
        low, high = row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)
        intervals.append("" if np.isnan(low) else f"[{low:z.3f}, {high:z.3f}]")
    return values, intervals


def text_table(scores: pd.DataFrame) -> str:
    """For a terminal: one row per system, with its intervals on the line below."""
    lines: list[tuple[Any, list[str]]] = []
    for name, row in scores.iterrows():
        values, intervals = _cells(row)
        lines += [(name, values), ("", intervals)] if any(intervals) else [(name, values)]
    names, cells = zip(*lines, strict=True)
    return pd.DataFrame(list(cells), index=list(names), columns=list(COLUMNS.values())).to_string()


def markdown_table(scores: pd.DataFrame) -> str:
    """For cards: one row per system, with its intervals below the values."""
    rows = {
        name: ["<br>".join(filter(None, cell)).replace(" ", "&nbsp;") for cell in zip(*_cells(row), strict=True)]
        for name, row in scores.iterrows()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS.values()))
    return table.to_markdown(disable_numparse=True)


def verdict(row: pd.Series, key: str = COMPARED) -> str:
    """A paired difference of one metric with its interval, in words: better, worse, or no difference shown."""
    low, high = row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)
    if np.isnan(low):
        return f"{row[key]:+.3f}, without an interval"
    above, below = ("worse", "better") if key.endswith(("rmse", "mae")) else ("better", "worse")
    says = above if low > 0 else below if high < 0 else "no difference shown"
    return f"{row[key]:+.3f} [{low:+.3f}, {high:+.3f}], {says}"


def comparison_line(scores: pd.DataFrame) -> str | None:
    """How the model compares with the other systems on its own labels, in words; None if `DIFFERENCES` are missing."""
    rows = dict(next(iter(blocks(scores).values())).iterrows())
    found = [f"minus {system}'s {verdict(rows[row])}" for row, system in DIFFERENCES.items() if row in rows]
    return f"The model's mean CCC, {'; '.join(found)}." if found else None


def blocks(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Scores by treatment of the labels, the run's own first."""
    return {name: scores.loc[name] for name in dict.fromkeys(scores.index.get_level_values(0))}


def scores_text(
    scores: pd.DataFrame,
    results: dict[str, Any],
    fold_scores: pd.DataFrame | None = None,
    curve_scores: pd.DataFrame | None = None,
) -> str:
    """For a terminal: a table per treatment of the labels, the legend, curve scores and prediction intervals.

    `scores` are from `scoring.scores.score_systems`; the model's `fold_scores` are shown above its pooled scores.
    """
    tables, over = blocks(scores), ""
    if fold_scores is not None:
        name, first = next(iter(tables.items()))
        tables[name] = pd.concat([fold_scores, first.rename(index={"model": "model, pooled"})])
        over = "mean over folds, "
    parts = [*(f"labels {name}\n\n{text_table(block)}\n" for name, block in tables.items()), LEGEND]
    if line := comparison_line(scores):
        parts.append(f"\n{line}")
    if curve_scores is not None:
        parts.append(f"\n{over}{curve_table(curve_scores)}")
    if "interval_level" in results:
        parts.append(f"\n{interval_line(results)}")
    return "\n".join(parts)


def scores_markdown(scores: pd.DataFrame, results: dict[str, Any]) -> str:
    """For a notebook: the same without curves, below the protocol."""
    parts = [f"{results['test_songs']} held-out songs. {results['protocol']}"]
    parts += [f"Labels {name}\n\n{markdown_table(block)}" for name, block in blocks(scores).items()]
    lines = [comparison_line(scores), interval_line(results) if "interval_level" in results else None]
    return "\n\n".join([*parts, LEGEND, *filter(None, lines)])


def interval_line(results: dict[str, Any]) -> str:
    """The prediction intervals, and their coverage of the test songs."""
    level, widths = f"{results['interval_level']:g}", [results[f"interval_{name}"] for name in DIMENSIONS]
    shares = coverage_text(widths, [results[f"test_{name}_coverage"] for name in DIMENSIONS], results["test_songs"])
    origin = "songs that selected nothing"
    if not results.get("calibration_songs"):
        origin = "the validation songs, which also chose the checkpoint, so that the level is approximate"
    return f"Intervals of level {level} (split conformal, from {origin}), on test songs: {shares}."


def coverage_text(halfwidths: Sequence[float], shares: Sequence[float], songs: int) -> str:
    """The half-width of each dimension's intervals, and the share of songs whose label they contain, with its own."""
    parts = []
    for name, halfwidth, share in zip(DIMENSIONS, halfwidths, shares, strict=True):
        low, high = share_interval(share, songs)
        parts.append(f"{name} ± {halfwidth:.2f} covers {share:.0%} [{low:.0%}, {high:.0%}]")
    return ", ".join(parts)


def curve_table(scores: pd.DataFrame) -> str:
    """Curve scores for a terminal."""
    titles = {f"{d}_{m}": f"{d[0].upper()} {m if m == 'r' else m.upper()}" for d in DIMENSIONS for m in CURVE_METRICS}
    table = scores.rename(columns=titles, index=ROWS).rename_axis(None)
    return f"curves at 2 Hz, in [-1, 1]:\n{table.to_string(float_format='{:.3f}'.format)}"


def read_curve_scores(folder: str | Path) -> pd.DataFrame | None:
    """The curve scores in a run's folder; None if there are none."""
    path = Path(folder, run_folder.CURVE_SCORES)
    return pd.read_csv(path, index_col="scored") if path.is_file() else None
