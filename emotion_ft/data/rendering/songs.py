"""Songs rendered from their own labels, in DEAM's folder layout, for anyone who cannot download DEAM.

The audio comes from `synthesis`; each artist has a sound, and labels have the noise of ten raters.
"""

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lameenc
import numpy as np
from scipy.special import ndtri
from tqdm.auto import tqdm

from ...errors import UsageError
from ..collections.annotations import DYNAMIC_FILES, METADATA_FILES, STATIC_FILES, read_dynamic, read_static
from ..collections.csv_collection import read_labels
from ..collections.exchange import repair
from ..files import RENDER_SETTINGS, StrPath, files_under, find_file
from ..songs import CURVE_STEP
from .synthesis import CONTROL_RATE, SAMPLE_RATE, synthesise

AUDIO = Path("DEAM_audio", "MEMD_audio")
AVERAGED = Path("DEAM_Annotations", "annotations", "annotations averaged per song")
FOLDERS = {
    **dict.fromkeys(STATIC_FILES, AVERAGED / "song_level"),
    **dict.fromkeys(DYNAMIC_FILES.values(), AVERAGED / "dynamic (per second annotations)"),
    **dict.fromkeys(METADATA_FILES, Path("metadata")),
}
RENDERER = 1  # raise when the sound changes, so that old and new files are never mixed

# Valence and arousal of DEAM's 1802 songs after exchanging the two for ids 2-1000, on the 1-9 scale.
LABEL_MEAN = np.array([4.99, 4.72])
LABEL_SD = np.array([1.11, 1.33])
LABEL_CORRELATION = 0.59
RATERS = 10
RATER_SD = np.array([1.57, 1.60])  # makes the means of the distributed standard deviations DEAM's 1.47 and 1.49
TRUE_SD = np.sqrt(LABEL_SD**2 - RATER_SD**2 / RATERS)
CORRELATE = np.linalg.cholesky([[1, LABEL_CORRELATION], [LABEL_CORRELATION, 1]]).T  # of labels and of raters' errors
DRIFT_SD = np.array([0.11, 0.15])  # of a curve around its mean, [-1, 1]: DEAM's full songs (its excerpts: 0.04, 0.05)
UNIQUE = 1000  # the first number of the artists with one song
SYLLABLES = ("ka", "lo", "mi", "ren", "tu", "sol", "va", "dri", "no", "pel")
METADATA_COLUMNS = (
    *("song_id", "file_name", "Artist", "Song title"),
    *("start of the segment (min.sec)", "end of the segment (min.sec)", "Genre"),
)
GENRES = ("Blues", "Classical", "Country", "Electronic", "Folk", "Jazz", "Pop", "Rock")
CURVE_START = 15.0  # seconds, of the dynamic annotations
BIT_RATE = 128  # kbit/s, of the MP3s

Table = dict[int, tuple[int, np.ndarray, np.ndarray]]
"""{song id: (artist, valence curve, arousal curve)}, curves float64 in [-1, 1] at `CONTROL_RATE`."""


def render_deam(
    root: StrPath,
    songs: int = 300,
    seconds: float = 45.0,
    seed: int = 42,
    labels: StrPath | Sequence[StrPath] | None = None,
    num_proc: int = 1,
    overwrite: bool = False,
) -> Path:
    """Render a collection into `root`, in DEAM's folder layout, as 44.1 kHz stereo MP3s, and return `root`.

    Labels have DEAM's means, deviations and correlation; the CSVs contain the means of ten raters who perceive the
    true label with noise. The curves drift around the label and start at 15.0 s; a song shorter than that has one
    value, at its last half second. Curves never run past the audio.

    A song depends only on (seed, id) and its labels, so neither `num_proc` nor `songs` changes its bytes. Finished
    files are kept, so an interrupted call can be repeated to continue.

    Args:
        songs: how many; their ids ascend from 2 with gaps, as DEAM's do.
        seconds: length of each, to a tenth.
        labels: a folder with DEAM's own annotation CSVs, at any depth. Then every song in them is rendered (`songs` is
            ignored) from its dynamic curve, or its static mean if it has none, after `repair`; the CSVs are copied
            byte for byte, faults included. With `seconds` of at least 45, songs with ids above 2000 are as long as
            their curves. Or a list of CSV files of another collection, joined as in `csv_collection.load_csv`, with
            numbers as ids: every song in them is rendered from its means.
        num_proc: if above 1, processes are spawned: call this under `if __name__ == "__main__":`.
        overwrite: render finished files again.

    Raises:
        UsageError: if `root` contains other music, or songs rendered with other settings and not `overwrite`, and for
            numbers out of range.
        AnnotationError: for `labels` that cannot be read.
    """
    root = Path(os.path.expanduser(root))
    if not (seconds >= 1 and num_proc >= 1 and seed >= 0):
        raise UsageError(f"expected seconds >= 1, num_proc >= 1, seed >= 0; got {seconds}, {num_proc}, {seed}")
    table, files = _drawn(songs, seconds, seed) if labels is None else _given(labels, seconds)
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
    settings = {"renderer": RENDERER, "seed": seed, "seconds": seconds, "songs": len(table), "annotations": digest}
    _claim(root, settings, overwrite)
    for name, content in files.items():
        folder = root / FOLDERS.get(name, ".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (root / AUDIO).mkdir(parents=True, exist_ok=True)
    tasks = [(root / AUDIO / f"{song_id}.mp3", seed, song_id, *row) for song_id, row in table.items()]
    tasks = [task for task in tasks if not task[0].exists()]
    for _ in tqdm(_each(_render, tasks, num_proc), total=len(tasks), desc="rendering", unit="song"):
        pass
    return root


def _drawn(songs: int, seconds: float, seed: int) -> tuple[Table, dict[str, bytes]]:
    """Songs with labels drawn as DEAM's, and their annotation files."""
    table = _draw(songs, seconds, seed)
    return table, {name: text.encode() for name, text in _annotations(table, seconds, seed).items()}


def _given(labels: StrPath | Sequence[StrPath], seconds: float) -> tuple[Table, dict[str, bytes]]:
    """Songs with the labels in a folder of DEAM's annotations or in a list of CSV files, and these files."""
    if isinstance(labels, str | os.PathLike):
        paths = {name: find_file(labels, name) for name in FOLDERS}
        return _read(labels, seconds), {name: path.read_bytes() for name, path in paths.items() if path}
    return _read_means(labels, seconds), {Path(path).name: Path(path).read_bytes() for path in labels}


def _claim(root: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make `root` ready for songs with these settings, or raise `UsageError`."""
    path = root / RENDER_SETTINGS
    if not path.exists() and root.is_dir():
        foreign = next((file for file in files_under(root) if file.suffix.lower() in (".mp3", ".wav", ".csv")), None)
        if foreign:
            raise UsageError(f"{root} contains files that were not rendered here, {foreign}: choose another folder")
    if path.exists():
        found = json.loads(path.read_text())
        if found != settings and not overwrite:
            changed = {key: (found.get(key), value) for key, value in settings.items() if found.get(key) != value}
            listed = ", ".join(f"{key} {old}, not {new}" for key, (old, new) in changed.items())
            raise UsageError(
                f"{root} contains songs rendered with {listed}: choose another folder, use the same settings, "
                "or render all songs again with overwrite=True (--overwrite)"
            )
    if overwrite:
        for folder in {AUDIO, *FOLDERS.values()}:
            for file in (root / folder).glob("*.*"):
                file.unlink()
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def _each(function: Callable[[Any], None], tasks: list, num_proc: int) -> Iterator[None]:
    if num_proc == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks)


def _render(task: tuple[Path, int, int, int, np.ndarray, np.ndarray]) -> None:
    """Write one song to its path, complete or not at all."""
    path, seed, song_id, artist, valence, arousal = task
    song, sound = np.random.default_rng([seed, 0, song_id]), np.random.default_rng([seed, 1, artist])
    part = path.with_suffix(".part")
    part.write_bytes(_mp3(synthesise(valence, arousal, sound, song)))
    os.replace(part, path)


def _mp3(audio: np.ndarray) -> bytes:
    """(samples, 2) in [-1, 1] -> an MP3; LAME's quality 5 takes a third of the time of libsndfile's setting."""
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_in_sample_rate(SAMPLE_RATE)
    encoder.set_channels(2)
    encoder.set_bit_rate(BIT_RATE)
    encoder.set_quality(5)
    return bytes(encoder.encode((audio * 32767).astype("<i2").tobytes()) + encoder.flush())


def _draw(songs: int, seconds: float, seed: int) -> Table:
    """Songs with labels drawn as DEAM's, and with curves and artists."""
    ids = [i for i in range(2, 2001) if i % 4 or i > 1000]  # 749 up to 1000, where DEAM has 744, and all after
    if not 1 <= songs <= len(ids):
        raise UsageError(f"expected 1 to {len(ids)} songs (DEAM's ids end at 2000), got {songs}")
    # The R2 sequence (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"): its first n points
    # are evenly spread for every n, so the sample correlation stays put, and adding songs changes no label.
    shift = np.random.default_rng([seed, 2]).random(2)
    normal = ndtri((shift + np.outer(np.arange(songs), [0.7548776662466927, 0.5698402909980532])) % 1)
    labels = (LABEL_MEAN + TRUE_SD * (normal @ CORRELATE) - 5) / 4
    count = round(seconds * CONTROL_RATE)
    table = {}
    for song_id, label in zip(ids[:songs], labels, strict=True):
        rng = np.random.default_rng([seed, 3, song_id])
        # Of DEAM's first 744 songs, 311 are their artist's only one; the others have 100 artists with up to 22 songs.
        weight = 1 / (8 + np.arange(100))
        artist = UNIQUE + song_id if rng.random() < 0.42 else int(rng.choice(100, p=weight / weight.sum()))
        angle = 2 * np.pi * (np.arange(count) / CONTROL_RATE / rng.uniform(12, 40, (2, 3, 1)) + rng.random((2, 3, 1)))
        drift = np.sin(angle).sum(1)
        drift = DRIFT_SD[:, None] * (drift - drift.mean(1, keepdims=True)) / (drift.std(1, keepdims=True) + 1e-9)
        table[song_id] = (artist, *np.clip(label[:, None] + drift, -1, 1))
    return table


def _annotations(table: Table, seconds: float, seed: int) -> dict[str, str]:
    """{file name: text} of the static, dynamic and metadata CSVs, formatted as DEAM's."""
    static = ["song_id, valence_mean, valence_std, arousal_mean, arousal_std"]
    metadata = [",".join(f'"{column}"' for column in METADATA_COLUMNS)]
    start = min(CURVE_START, max(0, math.floor(seconds / CURVE_STEP - 1) * CURVE_STEP))
    times = np.arange(start, max(seconds - CURVE_STEP, start) + 1e-6, CURVE_STEP)
    header = ["song_id", *(f"sample_{round(1000 * t)}ms" for t in times)]
    dynamic = {name: [",".join(header)] for name in DYNAMIC_FILES.values()}
    end = f"{int(seconds) // 60}.{int(seconds) % 60:02d}"
    for song_id, (artist, *curves) in table.items():
        rng = np.random.default_rng([seed, 4, song_id])
        perceived = 5 + 4 * np.mean(curves, axis=1) + RATER_SD * (rng.standard_normal((RATERS, 2)) @ CORRELATE)
        ratings = np.clip(np.round(perceived), 1, 9)
        cells = np.stack([ratings.mean(0), ratings.std(0)], axis=1).ravel()
        static.append(",".join([str(song_id), *(f"{round(cell, 2):g}" for cell in cells)]))
        for axis, curve in zip(("valence", "arousal"), curves, strict=True):
            values = np.interp(times, np.arange(len(curve)) / CONTROL_RATE, curve)
            dynamic[DYNAMIC_FILES[axis]].append(",".join([str(song_id), *(f"{value:.6f}" for value in values)]))
        padded = (f"Piece {song_id}", "0.00", end, GENRES[artist % 8])
        texts = (song_id, f"\t{song_id}.mp3", f"{_name(artist)}\t", *(f"\t{text}\t" for text in padded))
        metadata.append(",".join(f'"{text}"' for text in texts))
    lines = {STATIC_FILES[0]: static, **dynamic, METADATA_FILES[0]: metadata}
    return {name: "".join(f"{line}\r\n" for line in rows) for name, rows in lines.items()}


def _name(artist: int) -> str:
    """An artist's made-up name, one per number."""
    syllables = [SYLLABLES[artist // 10**k % 10] for k in range(4)]
    return "".join(syllables[:2]).title() + " " + "".join(syllables[2:]).title()


def _read(labels: StrPath, seconds: float) -> Table:
    """The songs in a folder of annotations, each by its own artist."""
    dynamic = read_dynamic(labels)
    static = repair(read_static(labels), dynamic)
    table: Table = {}
    for song_id, *means in static[["valence", "arousal"]].itertuples():
        curve, length = dynamic.get(song_id), seconds
        if curve is not None and song_id > 2000 and seconds >= 45:
            length = curve.start + curve.step * len(curve.valence)
        time = np.arange(round(length * CONTROL_RATE)) / CONTROL_RATE
        if curve is None:
            curves = [np.full(len(time), (mean - 5) / 4) for mean in means]
        else:
            moments = curve.start + curve.step * np.arange(len(curve.valence))
            curves = [np.interp(time, moments, values) for values in (curve.valence, curve.arousal)]
        table[song_id] = (UNIQUE + song_id, *curves)
    return table


def _read_means(files: Sequence[StrPath], seconds: float) -> Table:
    """The songs in CSV files, each by its own artist and constant at its means."""
    length = round(seconds * CONTROL_RATE)
    table: Table = {}
    for song_id, *means in read_labels(files).itertuples():
        if not song_id.isdecimal():
            raise UsageError(f"songs can only be rendered if their ids are numbers, but {files[0]} has {song_id!r}")
        valence, arousal = (np.full(length, (mean - 5) / 4) for mean in means)
        table[int(song_id)] = (UNIQUE + int(song_id), valence, arousal)
    return table
