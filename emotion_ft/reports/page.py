"""A finished run as one self-contained HTML page: numbers, pictures, style and script."""

import base64
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup

from .. import run_folder
from ..errors import UsageError
from ..scoring.curves import ROWS
from ..scoring.metrics import DIMENSIONS, METRICS
from ..scoring.scores import CEILING, DIFFERENCES, LEAST_CEILING, TEXT, read_table, references, system_predictions
from . import tables
from .song_plots import QUADRANTS
from .templates import template

WORST = 20
SIDES = ("train", "validation", "test")
SHOWN = ("r2", "ccc")
"""Metrics without a unit: in the tiles and in the forest plot."""


class Cell(NamedTuple):
    """A score and its 95 % interval; None if there is none."""

    value: float
    low: float | None
    high: float | None


class Forest(NamedTuple):
    """One panel of the forest plot: a metric of a dimension, on an axis from `low` to 1."""

    dimension: str
    metric: str
    low: float
    ticks: list[float]


def write_page(folder: str | Path, results: dict[str, Any] | None = None) -> Path:
    """Write `report.html` into the folder of a finished fine-tuning run or cross-validation.

    The page loads nothing: its pictures, style and script are embedded. Parts that the run did not produce (an audit,
    curves, plots, prediction intervals) are named as missing.

    Args:
        folder: of the run.
        results: of the run; None: those in its folder.

    Raises:
        UsageError: if the folder holds no finished run; says what is missing and which command makes it.
    """
    folder = Path(folder)
    results = results or _results(folder)
    folds = range(results.get("folds", 0))
    songs, curve_scores = _read_songs(folder / run_folder.PREDICTIONS), tables.read_curve_scores(folder)
    runs = {f"fold {fold}": run_folder.fold_folder(folder, fold) for fold in folds} or {"": folder}
    config = folder / run_folder.CONFIG
    config_text = config.read_text() if config.is_file() else None
    values = {"dimensions": DIMENSIONS, "metrics": METRICS, "titles": tables.TITLES | {"r2": "R²"}, "png": _png}
    values |= {"name": folder.resolve().name, "folder": folder, "runs": runs, "results": results}
    values |= {"config": yaml.safe_load(config_text or "{}"), "config_text": config_text, "sides": _sides(runs)}
    values |= {"audit": _audit(folder / run_folder.AUDIT / run_folder.AUDIT_REPORT), "legend": tables.LEGEND}
    values |= {"songs": songs.to_dict("records"), "worst": songs.nlargest(WORST, "distance").to_dict("records")}
    values |= {"quadrants": quadrant_errors(songs), "commands": _commands(folder, len(folds))}
    page = template(run_folder.PAGE).render(
        **values,
        **_scores(folder),
        curve_scores=None if curve_scores is None else curve_scores.rename(index=ROWS).to_dict("index"),
        intervals=tables.interval_line(results) if "interval_level" in results else None,
    )
    path = folder / run_folder.PAGE
    path.write_text(page.lstrip(), encoding="utf-8")
    return path


def quadrant_errors(songs: pd.DataFrame) -> list[dict[str, Any]]:
    """Of a table of predictions, one row per quadrant of the labels: number of songs, mean errors and RMSEs."""
    labels = references(songs)
    errors, signs = system_predictions(songs, "model") - labels, np.where(labels >= 5, 1, -1)
    inside = {name: errors[(signs == sign).all(1)] for name, sign in QUADRANTS.items()}
    return [
        {"name": name, "songs": len(rows), "errors": rows.mean(0), "rmse": np.sqrt(np.square(rows).mean(0))}
        for name, rows in (inside | {"all": errors}).items()
        if len(rows)
    ]


def _results(folder: Path) -> dict[str, Any]:
    """`all_results.json` of a folder that also has the tables."""
    needed = (run_folder.RESULTS, run_folder.PREDICTIONS, run_folder.SCORES)
    missing = [name for name in needed if not (folder / name).is_file()]
    if not missing:
        return run_folder.read_results(folder)
    place = shlex.quote(str(folder))
    command = f"emotion-ft finetune CONFIG --output_dir {place} makes one"
    if (folder / run_folder.CROSS_VALIDATION).is_file():
        command = f"emotion-ft cross_validate CONFIG --output {place} resumes it"
    state = f"lacks {', '.join(missing)}" if folder.is_dir() else "is not there"
    raise UsageError(f"'{folder}' holds no finished run, it {state}: {command}.")


def _read_songs(path: Path) -> pd.DataFrame:
    """`predictions.csv`, with the distance from label to prediction."""
    songs = read_table(path)
    songs[list(TEXT)] = songs[list(TEXT)].fillna("")
    return songs.assign(distance=np.linalg.norm(system_predictions(songs, "model") - references(songs), axis=1))


def _scores(folder: Path) -> dict[str, Any]:
    """The tables by treatment of the labels, their forest plots, the model's own row, and the systems' ranking."""
    scores = pd.read_csv(folder / run_folder.SCORES, index_col=["labels", "system"])
    by_treatment = tables.blocks(scores)
    treatment, first = next(iter(by_treatment.items()))
    ranking = (
        first["mean_ccc"].drop([CEILING, LEAST_CEILING, *DIFFERENCES], errors="ignore").sort_values(ascending=False)
    )
    fold_scores = folder / run_folder.FOLD_SCORES
    if fold_scores.is_file():
        model, others = first.iloc[:1].rename({"model": "model, pooled"}), first.iloc[1:]
        first = pd.concat([model, pd.read_csv(fold_scores, index_col="fold"), others])
    cells = {name: _cells(block) for name, block in (by_treatment | {treatment: first}).items()}
    drawn = {
        name: {row: cells for row, cells in rows.items() if row not in DIFFERENCES} for name, rows in cells.items()
    }
    forests = {name: _forests(rows) for name, rows in drawn.items()}
    shown = {"tables": cells, "drawn": drawn, "forests": forests, "headline": next(iter(cells[treatment].values()))}
    return shown | {"ranking": ranking.to_dict(), "comparison": tables.comparison_line(scores)}


def _cells(scores: pd.DataFrame) -> dict[str, dict[str, Cell]]:
    """Cells by row and key."""

    def cell(row: pd.Series, key: str) -> Cell:
        bounds = [row.get(f"{key}_{end}", np.nan) for end in ("low", "high")]
        return Cell(row[key], *(None if np.isnan(bound) else bound for bound in bounds))

    return {str(name): {key: cell(row, key) for key in tables.COLUMNS} for name, row in scores.iterrows()}


def _forests(rows: dict[str, dict[str, Cell]]) -> list[Forest]:
    """The panels of a table; axes end at -1, since lower scores would squeeze the others together."""
    panels = []
    for dimension in DIMENSIONS:
        for metric in SHOWN:
            cells = [row[f"{dimension}_{metric}"] for row in rows.values()]
            lows = [cell.value if cell.low is None else min(cell.value, cell.low) for cell in cells]
            low = max(np.floor(4 * min(0, *lows)) / 4, -1.0)
            step = 0.25 if low > -0.5 else 0.5
            ticks = np.arange(np.ceil(low / step) * step, 1.1, step)
            panels.append(Forest(dimension, metric, low, ticks.tolist()))
    return panels


def _sides(runs: dict[str, Path]) -> pd.DataFrame | None:
    """Numbers of songs by run and source, one column per side; None if a run has no list of its songs."""
    lists = {name: run / run_folder.SONGS for name, run in runs.items()}
    if not all(path.is_file() for path in lists.values()):
        return None
    songs = pd.concat([read_table(path).assign(run=name) for name, path in lists.items()])
    return songs.groupby(["run", "source", "split"]).size().unstack(fill_value=0).reindex(columns=SIDES, fill_value=0)


def _audit(path: Path) -> Markup | None:
    """The audit's report as HTML, with headings two levels down; it quotes file names, so only text is let through."""
    if not path.is_file():
        return None
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "reference"])
    tokens = parser.parse(path.read_text())
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Markup(html)


def _png(path: Path) -> str | None:
    """A picture as a data URI; None if there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None


def _commands(folder: Path, folds: int) -> list[str]:
    """The commands that repeat the run, in another folder, and that write this page."""
    place, config, again = (shlex.quote(str(path)) for path in (folder, folder / run_folder.CONFIG, f"{folder}-again"))
    cross_validate = f"emotion-ft cross_validate {config} --folds {folds} --output {again}"
    finetune = f"emotion-ft finetune {config} --output_dir {again}"
    return [cross_validate if folds else finetune, f"emotion-ft report {place}"]
