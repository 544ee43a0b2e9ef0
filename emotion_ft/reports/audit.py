"""The audit of a collection as files: a report, one row per song, two plots."""

from collections import Counter
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import run_folder
from ..data.collections.audit import Audit
from ..data.collections.exchange import FEWEST, ColumnCheck
from .training_plots import save_figure

CHECK_COLUMNS = {"songs": "songs", "valence": "V ~ own curve", "arousal": "A ~ own curve"}
CHECK_COLUMNS |= {"crossed_valence": "V ~ other curve", "crossed_arousal": "A ~ other curve"}
CHECK_COLUMNS |= {"difference": "V - A ~ curves' V - A"}


def to_markdown(found: Audit, root: str | PathLike[str]) -> str:
    """The audit as a report to read."""
    lines = [f"# Audit of {Path(root).name}", "", *(f"- {name}: {count}" for name, count in found.counts.items()), ""]
    ranges = found.songs[["valence", "valence_std", "arousal", "arousal_std", "curve_valence", "curve_arousal"]]
    lines += ["## Ranges", "", ranges.describe().loc[["min", "mean", "std", "max"]].to_markdown(floatfmt=".3f"), ""]
    lines += ["## Are valence and arousal exchanged?", "", *_exchange(found), ""]
    if found.songs["duration"].notna().any():
        durations = found.songs["duration"].describe()[["min", "25%", "50%", "75%", "max"]]
        lines += ["## Audio, by the files' headers", ""]
        lines.append("Durations in seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in durations.items()))
        for name in ("sampling_rate", "channels"):
            counted = Counter(found.songs[name].dropna().astype(int))
            lines.append(f"\n{name}: " + ", ".join(f"{value} x {count}" for value, count in counted.most_common()))
        lines.append("")
    if found.copies:
        lines += ["## One recording under two ids", ""]
        lines += [f"- {pair.song_id} and {pair.other}, agreement {pair.agreement:.2f}" for pair in found.copies[:50]]
        lines += [f"- and {len(found.copies) - 50} more pairs"] * (len(found.copies) > 50) + [""]
    if found.joined:
        lines += ["## Artists that are kept together", ""]
        lines += [f"- {'; '.join(names)}" for names in found.joined] + [""]
    faulty = found.songs.loc[found.songs["problems"] != "", "problems"]
    if len(faulty):
        lines += ["## Songs with problems", "", *(f"- {song_id}: {text}" for song_id, text in faulty[:50].items())]
        lines += [f"- and {len(faulty) - 50} more, in audit.csv"] * (len(faulty) > 50) + [""]
    return "\n".join(lines)


def _exchange(found: Audit) -> list[str]:
    """The evidence for and against an exchange, and what follows from it."""
    ids, checks = found.exchange.ids, list(found.checks)
    if len(ids) and found.exchange.check and found.exchange.check not in checks:
        checks.append(found.exchange.check)
    lines = [_check_table(checks), ""] if checks else []
    if not len(ids):
        if checks and found.exchange.decided:
            return [*lines, "The data show no range of ids with exchanged columns."]
        return [
            *lines,
            "Cannot be decided: there are no dynamic annotations to compare the static ones with, or too few.",
        ]
    lines += [
        f"The data show an exchange in ids {ids[0]} to {ids[-1]}, {len(ids)} rows: what is called valence there, how "
        "pleasant music sounds, is arousal, how energetic it sounds, and the other way round. A model trained on them "
        "learns each in place of the other; `--labels repaired`, the default, puts exactly these rows in order.",
        "",
    ]
    if found.ends:
        first, last = found.ends
        lines.append(
            f"By the curves alone, the first such song has an id from {first[0]} to {first[1]}, the last one has an "
            f"id from {last[0]} to {last[1]} (bootstrap 95 % intervals over songs)."
        )
    if found.exchange.recognised:
        lines.append(
            "There are too few dynamic annotations to show it, but these rows are, number by number, those that DEAM "
            "distributes, and in which its dynamic annotations show the exchange."
        )
    return lines + _genre_evidence(found.genres)


def _check_table(checks: list[ColumnCheck]) -> str:
    rows = []
    for check in checks:
        values = {title: getattr(check, name) for name, title in CHECK_COLUMNS.items()}
        interval = f"{check.low:.3f} to {check.high:.3f}"
        rows.append(
            {"ids": f"{check.first}-{check.last}", **values, "95 % interval": interval, "columns": check.verdict}
        )
    return pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f")


def _genre_evidence(genres: pd.DataFrame) -> list[str]:
    """Which of the two files has its columns exchanged: the one whose valence separates rock from classical music."""
    if not {"Rock", "Classical"} <= set(genres.index) or genres.loc[["Rock", "Classical"], "songs"].min() < FEWEST:
        return []
    genres = genres.dropna(axis="columns")
    rock, classical = genres.loc[["Rock", "Classical"]].to_numpy(np.float64)
    contrast = dict(zip(genres.columns, (rock - classical).tolist(), strict=True))
    lines = ["", genres.to_markdown(floatfmt=("", ".0f", *[".2f"] * 4)), ""]
    parts = ", ".join(f"{name} {contrast[name]:+.2f}" for name in genres.columns.drop("songs"))
    lines.append(f"To most ears, rock is far more energetic than classical music. Rock minus Classical: {parts}.")
    files = {"static": ("valence", "arousal"), "dynamic": ("curve_valence", "curve_arousal")}
    there = {name: columns for name, columns in files.items() if set(columns) <= set(genres.columns)}
    wrong = [name for name, (valence, arousal) in there.items() if contrast[valence] > contrast[arousal]]
    if len(wrong) == 1:
        lines.append(
            f"In the {wrong[0]} annotations, it is valence that separates the two: their columns are exchanged."
        )
    return lines


def write_audit(folder: str | Path, audit: Audit, root: str | Path) -> str:
    """Write `audit.md`, `audit.csv` and the plots into `folder`; returns the text of `audit.md`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(audit, root)
    (folder / run_folder.AUDIT_REPORT).write_text(text, encoding="utf-8")
    audit.songs.to_csv(folder / run_folder.AUDIT_SONGS, float_format="%.4f")
    plot_exchange(folder, audit)
    plot_labels(folder, audit)
    return text


def plot_exchange(folder: str | Path, audit: Audit) -> Path:
    """Write `plots/exchange.png`: static against dynamic V - A by block of ids, and the evidence summed over ids."""
    songs = audit.songs.dropna(subset=["curve_valence", "curve_arousal"])
    static = (songs["valence"] - songs["arousal"]) / 4
    curves = songs["curve_valence"] - songs["curve_arousal"]
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    differences, evidence = figure.subplots(1, 2)
    for check in audit.checks:
        inside = (songs.index >= check.first) & (songs.index <= check.last)
        label = f"ids {check.first}-{check.last}: r {check.difference:.2f}, {check.verdict}"
        differences.scatter(curves[inside], static[inside], s=6, label=label)
    differences.set(xlabel="curves: mean valence - arousal", ylabel="static: (valence - arousal) / 4")
    differences.set(title="valence - arousal in both annotations")
    evidence.plot(songs.index, np.cumsum(-(static - static.mean()) * (curves - curves.mean())))
    if len(ids := audit.exchange.ids):
        evidence.axvspan(ids[0], ids[-1], alpha=0.15, label="exchanged")
        evidence.legend(fontsize="small")
    evidence.set(xlabel="song id", ylabel="sum up to this song", title="evidence for an exchange")
    if audit.checks:
        differences.legend(fontsize="small")
    return save_figure(figure, folder, "exchange.png")


def plot_labels(folder: str | Path, audit: Audit) -> Path:
    """Write `plots/labels.png`: labels as distributed on the plane and against curves, and durations."""
    songs = audit.songs
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    plane, *curves, durations = figure.subplots(1, 4)
    plane.scatter(songs["valence"], songs["arousal"], s=6)
    plane.set(xlabel="valence", ylabel="arousal", xlim=(1, 9), ylim=(1, 9), title="static labels as distributed")
    outlying = songs["problems"].str.contains("robust deviations")
    for axes, name in zip(curves, ("valence", "arousal"), strict=True):
        axes.scatter(songs[f"curve_{name}"], songs[name], s=6)
        axes.scatter(songs[f"curve_{name}"][outlying], songs[name][outlying], s=14, label="outlying")
        axes.set(xlabel=f"mean of the {name} curve", ylabel=f"static {name}", title=f"{name}, as distributed")
    if outlying.any():
        curves[0].legend(fontsize="small")
    if songs["duration"].notna().any():
        durations.hist(songs["duration"].dropna(), bins=40, log=True)
    durations.set(xlabel="seconds", ylabel="songs", title="durations by the files' headers")
    return save_figure(figure, folder, "labels.png")
