"""A comparison of runs as text and as files."""

from pathlib import Path

import pandas as pd

from .. import run_folder
from ..scoring.comparison import Comparison
from .tables import markdown_table, text_table, verdict

LEGEND = (
    "Valence (V) and arousal (A), RMSE and MAE on the 1-9 scale; below, 95 % jackknife-t intervals over artists"
    "{seeds}. Differences are between scores on the same songs; where an interval contains 0, no difference is shown."
)
SEEDS = ", and over seeds where there are several: their mean score counts, and sd is its standard deviation"


def comparison_text(comparison: Comparison, markdown: bool = False) -> str:
    """For a terminal, or in Markdown: the protocol, the table, its legend, and what the differences show."""
    table = pd.concat([comparison.scores, comparison.differences])
    artists = f"{comparison.artists} artists"
    parts = [
        f"{comparison.songs} test songs by {artists}, labels {comparison.labels}",
        (markdown_table if markdown else text_table)(table),
        LEGEND.format(seeds=SEEDS if len(comparison.scores) > len(comparison.differences) + 1 else ""),
        *(f"Mean CCC, {name}: {verdict(row)}." for name, row in comparison.differences.iterrows()),
    ]
    return "\n\n".join(parts)


def write_comparison(folder: str | Path, comparison: Comparison) -> None:
    """Write `compare.csv`, one row per run and difference, and `compare.md` into a folder, which is made if needed."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    table = pd.concat([comparison.scores, comparison.differences]).rename_axis("run").reset_index()
    run_folder.write_table(folder, run_folder.COMPARISON, table)
    Path(folder, run_folder.COMPARISON_TABLE).write_text(comparison_text(comparison, markdown=True) + "\n")
