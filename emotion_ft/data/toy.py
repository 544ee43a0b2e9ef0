"""Songs rendered from their own labels, in DEAM's folder layout, for everybody who cannot download DEAM.

The audio is music-like (chords, melody, bass, drums) and its cues follow valence and arousal over time. Which cue
speaks for which dimension follows Gabrielsson & Lindström (2010, "The role of structure in the musical expression of
emotions") and Eerola, Friberg & Bresin (2013, doi:10.3389/fpsyg.2013.00487): arousal raises tempo, density, attack,
brightness and percussion; valence raises register, consonance, staccato and the major mode, and, so that it survives
the standardised log-mel, trades a low drone for high bells. Key, instruments, progressions, loudness, stereo, timing,
room and noise vary freely, an artist keeps a sound, and labels carry the noise of ten raters.
"""

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, resample_poly, sosfilt
from scipy.special import ndtri
from tqdm.auto import tqdm

from .annotations import DYNAMIC_FILES, METADATA_FILES, STATIC_FILES, find_file, read_dynamic, read_static, repair

AUDIO = Path("DEAM_audio", "MEMD_audio")
AVERAGED = Path("DEAM_Annotations", "annotations", "annotations averaged per song")
FOLDERS = {
    **dict.fromkeys(STATIC_FILES, AVERAGED / "song_level"),
    **dict.fromkeys(DYNAMIC_FILES.values(), AVERAGED / "dynamic (per second annotations)"),
    **dict.fromkeys(METADATA_FILES, Path("metadata")),
}
SETTINGS = "render_settings.json"
RENDERER = 1  # raise when the sound changes, so that old and new files never mix

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
GENRES = ("Blues", "Classical", "Country", "Electronic", "Folk", "Jazz", "Pop", "Rock")
CURVE_START, CURVE_STEP = 15.0, 0.5  # seconds, of the dynamic annotations

SAMPLE_RATE = 44100  # hertz, of the files
RATE = SAMPLE_RATE // 2  # hertz, of the synthesis
CONTROL_RATE = 10  # hertz, of the curves that drive it
CUES = {
    "valence": ("register", "consonance", "mode", "staccato", "sparkle", "rumble"),
    "arousal": ("tempo", "density", "brightness", "percussion", "attack", "drive"),
}
JITTER = 0.07  # standard deviation of a cue around its label, [-1, 1]; half its variance belongs to the artist
MAJOR, MINOR = np.array([0, 2, 4, 5, 7, 9, 11]), np.array([0, 2, 3, 5, 7, 8, 10])
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 0, 4), (0, 5, 1, 4))


def render_deam(root, songs=300, seconds=45.0, seed=42, labels=None, num_proc=1, overwrite=False) -> Path:
    """Render a collection into `root`, in DEAM's folder layout, as 44.1 kHz stereo MP3s, and return `root`.

    songs: how many; their ids ascend from 2 with gaps, as DEAM's do. seconds: length of each, to a tenth. Labels have
    DEAM's means, deviations and correlation; the CSVs hold the means of ten raters who hear the true label with noise.
    The curves drift around the label and start at 15.0 s; a song shorter than that has one value, at its last half
    second. Curves never run past the audio.

    labels: a folder with DEAM's own annotation CSVs, at any depth. Then every song in them is rendered (`songs` is
    not used) from its dynamic curve, or its static mean where it has none, after `repair`; the CSVs are copied byte
    for byte, faults included. With `seconds` of at least 45, songs with ids above 2000 are as long as their curves.

    A song depends on (seed, id) and its labels alone, so neither `num_proc` nor `songs` changes its bytes. Finished
    files are kept, so an interrupted call goes on where it stopped; `overwrite` renders them anew. With `num_proc`
    above 1, processes are spawned: call it under `if __name__ == "__main__":`.
    Raises `FileExistsError` if `root` holds other music, or songs rendered with other settings and not `overwrite`;
    `ValueError` for numbers out of range; `AnnotationError` for `labels` that cannot be read.
    """
    root = Path(root)
    if not (seconds >= 1 and num_proc >= 1 and seed >= 0):
        raise ValueError(f"expected seconds >= 1, num_proc >= 1, seed >= 0; got {seconds}, {num_proc}, {seed}")
    if labels is None:
        table = _draw(songs, seconds, seed)
        files = {name: text.encode() for name, text in _annotations(table, seconds, seed).items()}
    else:
        paths = {name: find_file(labels, name) for name in FOLDERS}
        files = {name: path.read_bytes() for name, path in paths.items() if path}
        table = _read(labels, seconds)
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
    settings = {"renderer": RENDERER, "seed": seed, "seconds": seconds, "songs": len(table), "annotations": digest}
    _settle(root, settings, overwrite)
    for name, content in files.items():
        (root / FOLDERS[name]).mkdir(parents=True, exist_ok=True)
        (root / FOLDERS[name] / name).write_bytes(content)
    (root / AUDIO).mkdir(parents=True, exist_ok=True)
    tasks = [(root / AUDIO / f"{song_id}.mp3", seed, song_id, *row) for song_id, row in table.items()]
    tasks = [task for task in tasks if not task[0].exists()]
    for _ in tqdm(_each(_render, tasks, num_proc), total=len(tasks), desc="rendering", unit="song"):
        pass
    return root


def _settle(root, settings, overwrite):
    """Make `root` ready for songs with these settings, or raise `FileExistsError`."""
    path = root / SETTINGS
    holds = [file for folder in {AUDIO, *FOLDERS.values()} for file in (root / folder).glob("*.*")]
    if not path.exists() and holds:
        raise FileExistsError(f"{root} holds files that were not rendered here, {holds[0]}: choose another folder")
    if path.exists():
        found = json.loads(path.read_text())
        if found != settings and not overwrite:
            changed = {key: (found.get(key), value) for key, value in settings.items() if found.get(key) != value}
            listed = ", ".join(f"{key} {old}, not {new}" for key, (old, new) in changed.items())
            raise FileExistsError(
                f"{root} holds songs rendered with {listed}: choose another folder, ask for the same settings, "
                "or render all songs anew with overwrite=True (--overwrite)"
            )
    if overwrite:
        for file in holds:
            file.unlink()
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def _each(function, tasks, num_proc) -> Iterator:
    if num_proc == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks)


def _render(task):
    """Write one song to its path; complete or not at all."""
    path, seed, song_id, artist, valence, arousal = task
    song, sound = np.random.default_rng([seed, 0, song_id]), np.random.default_rng([seed, 1, artist])
    part = path.with_suffix(".part")
    audio = synthesise(valence, arousal, sound, song)
    soundfile.write(part, audio, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.9)
    os.replace(part, path)


def _draw(songs, seconds, seed):
    """{song_id: (artist, valence curve, arousal curve)}, curves float64 in [-1, 1] at `CONTROL_RATE`."""
    ids = [i for i in range(2, 2001) if i % 4 or i > 1000]  # 749 up to 1000, where DEAM has 744, and all after
    if not 1 <= songs <= len(ids):
        raise ValueError(f"expected 1 to {len(ids)} songs (DEAM's ids end at 2000), got {songs}")
    # The R2 sequence (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"): its first n points
    # are evenly spread for every n, so that the sample correlation does not wander, and more songs change no label.
    shift = np.random.default_rng([seed, 2]).random(2)
    normal = ndtri((shift + np.outer(np.arange(songs), [0.7548776662466927, 0.5698402909980532])) % 1)
    labels = (LABEL_MEAN + TRUE_SD * (normal @ CORRELATE) - 5) / 4
    count = round(seconds * CONTROL_RATE)
    table = {}
    for song_id, label in zip(ids[:songs], labels, strict=True):
        rng = np.random.default_rng([seed, 3, song_id])
        # Of DEAM's first 744 songs 311 are their artist's only one; the others have 100 artists with up to 22 songs.
        weight = 1 / (8 + np.arange(100))
        artist = UNIQUE + song_id if rng.random() < 0.42 else int(rng.choice(100, p=weight / weight.sum()))
        angle = 2 * np.pi * (np.arange(count) / CONTROL_RATE / rng.uniform(12, 40, (2, 3, 1)) + rng.random((2, 3, 1)))
        drift = np.sin(angle).sum(1)
        drift = DRIFT_SD[:, None] * (drift - drift.mean(1, keepdims=True)) / (drift.std(1, keepdims=True) + 1e-9)
        table[song_id] = (artist, *np.clip(label[:, None] + drift, -1, 1))
    return table


def _annotations(table, seconds, seed):
    """{file name: text} of the static, the dynamic and the metadata CSV, formatted as DEAM's."""
    static = ["song_id, valence_mean, valence_std, arousal_mean, arousal_std"]
    columns = ("song_id", "file_name", "Artist", "Song title")
    columns += ("start of the segment (min.sec)", "end of the segment (min.sec)", "Genre")
    metadata = [",".join(f'"{column}"' for column in columns)]
    start = min(CURVE_START, max(0, math.floor(seconds / CURVE_STEP - 1) * CURVE_STEP))
    times = np.arange(start, max(seconds - CURVE_STEP, start) + 1e-6, CURVE_STEP)
    header = ["song_id", *(f"sample_{round(1000 * t)}ms" for t in times)]
    dynamic = {name: [",".join(header)] for name in DYNAMIC_FILES.values()}
    end = f"{int(seconds) // 60}.{int(seconds) % 60:02d}"
    for song_id, (artist, *curves) in table.items():
        rng = np.random.default_rng([seed, 4, song_id])
        heard = 5 + 4 * np.mean(curves, axis=1) + RATER_SD * (rng.standard_normal((RATERS, 2)) @ CORRELATE)
        ratings = np.clip(np.round(heard), 1, 9)
        cells = np.stack([ratings.mean(0), ratings.std(0)], axis=1).ravel()
        static.append(",".join([str(song_id), *(f"{round(cell, 2):g}" for cell in cells)]))
        for axis, curve in zip(("valence", "arousal"), curves, strict=True):
            values = np.interp(times, np.arange(len(curve)) / CONTROL_RATE, curve)
            dynamic[DYNAMIC_FILES[axis]].append(",".join([str(song_id), *(f"{value:.6f}" for value in values)]))
        row = (
            f"\t{song_id}.mp3",
            f"{_name(artist)}\t",
            f"\tPiece {song_id}",
            "\t0.00",
            f"\t{end}",
            f"\t{GENRES[artist % 8]}",
        )
        quoted = [f'"{song_id}"', f'"{row[0]}"', f'"{row[1]}"', *(f'"{cell}\t"' for cell in row[2:])]
        metadata.append(",".join(quoted))
    lines = {STATIC_FILES[0]: static, **dynamic, METADATA_FILES[0]: metadata}
    return {name: "".join(f"{line}\r\n" for line in rows) for name, rows in lines.items()}


def _name(artist):
    """A made-up artist's name, one for each number."""
    syllables = [SYLLABLES[artist // 10**k % 10] for k in range(4)]
    return "".join(syllables[:2]).title() + " " + "".join(syllables[2:]).title()


def _read(labels, seconds):
    """`_draw`'s table for the songs of a folder of annotations, each its own artist."""
    dynamic = read_dynamic(labels)
    static = repair(read_static(labels), dynamic)
    table = {}
    for song_id, label in static[["valence", "arousal"]].iterrows():
        curve = dynamic.get(song_id)
        whole = curve is not None and song_id > 2000 and seconds >= 45
        length = curve.start + curve.step * len(curve.valence) if whole else seconds
        time = np.arange(round(length * CONTROL_RATE)) / CONTROL_RATE
        if curve is None:
            curves = [np.full(len(time), (value - 5) / 4) for value in label]
        else:
            moments = curve.start + curve.step * np.arange(len(curve.valence))
            curves = [np.interp(time, moments, values) for values in (curve.valence, curve.arousal)]
        table[int(song_id)] = (UNIQUE + int(song_id), *curves)
    return table


def synthesise(valence, arousal, sound, song):
    """Stereo music whose cues follow two label curves.

    valence, arousal: (control frames,) in [-1, 1], at `CONTROL_RATE`; they set the length. sound, song: NumPy
    Generators for what an artist keeps (instruments, kit, habits) and for what changes from song to song (key, chords,
    timing, mix).
    Returns (samples, 2), float32 at 44.1 kHz, |x| < 1.
    """
    n = round(len(valence) * RATE / CONTROL_RATE)
    time = np.arange(len(valence)) / CONTROL_RATE
    cue = {}
    for name, curve in (("valence", valence), ("arousal", arousal)):
        for c in CUES[name]:
            jitter = JITTER * math.sqrt(0.5) * (sound.standard_normal() + song.standard_normal())
            cue[c] = np.clip(0.5 + 0.75 * (curve + jitter), 0, 1)

    # Sixteenth-note steps: the integral of the tempo, 66-165 beats a minute, inverted.
    phase = np.concatenate([[0], np.cumsum(66 * 2.5 ** cue["tempo"] / 60 / CONTROL_RATE)[:-1]])
    starts = np.interp(np.arange(int(phase[-1] * 4) + 1) / 4, phase, time)
    at = {c: np.interp(starts, time, u) for c, u in cue.items()}
    swing = song.choice([0, 0, 0.3]) * np.diff(starts, append=starts[-1] + 0.1) * (np.arange(len(starts)) % 2)
    starts = starts + swing + np.abs(song.normal(0, 0.006, len(starts)))
    onsets = (starts * RATE).astype(int)
    length = np.diff(onsets, append=n).clip(1)  # samples from a step to the next

    bus = {name: np.zeros(n, np.float32) for name in ("chords", "lead", "bass", "bells", "drums", "rumble")}
    instrument = {name: _instrument(sound) for name in ("chords", "lead", "bass", "bells")}
    kit = _kit(sound)
    cache = {}

    def play(name, step, pitch, steps, gain, attack=0.01, decay=None):
        start = onsets[step]
        stop = min(int(start + steps * length[step] * 1.02), n)
        if stop - start < 64:
            return
        samples = stop - start
        bus[name][start:stop] += gain * _note(cache, name, instrument[name], pitch, samples, attack, decay)

    key = int(song.integers(12))
    progression = PROGRESSIONS[song.integers(len(PROGRESSIONS))]
    harmonic_rhythm = int(song.choice([8, 16, 16]))  # steps a chord
    melody, repeats = 0, song.random((2, 64))
    lively = song.random(len(starts))
    accents = np.tile([1, 0.35, 0.7, 0.4], len(starts) // 4 + 1)
    for step in range(len(starts)):
        register = 45 + 26 * at["register"][step]  # centre of the chords, MIDI note number
        scale = MAJOR if at["mode"][step] > 0.5 else MINOR
        root = progression[step // harmonic_rhythm % len(progression)]
        attack = 0.005 + 0.09 * (1 - at["attack"][step]) ** 2
        density = at["density"][step]
        short = 1 - 0.75 * at["staccato"][step]

        def pitch(degree, centre, scale=scale):
            """The MIDI note of a scale degree, in the octave nearest to a centre."""
            note = key + scale[degree % 7]
            return int(note + 12 * round((centre - note) / 12))

        if step % harmonic_rhythm == 0 or (step % 2 == 0 and lively[step] < (density - 0.3) * 0.8):
            held = harmonic_rhythm if density < 0.4 else 4
            for third in (0, 2, 4):
                play("chords", step, pitch(root + third, register), held * short, 0.16, attack)
            clash = (1 - at["consonance"][step]) ** 1.5
            if clash > 0.1:  # minor seconds and a tritone against the chord
                play("chords", step, pitch(root, register) + 1, held * short, 0.2 * clash, attack)
                play("chords", step, pitch(root, register) + 6, held * short, 0.14 * clash, attack)
        if step % 8 == 0 or (step % 2 == 0 and lively[step] > 1.05 - 0.6 * density):
            play("bass", step, pitch(root, 36 + 6 * at["register"][step]), 4, 0.3, 0.01, 0.5)
        if repeats[0, step % 64] < (0.12 + 0.6 * density) * accents[step]:
            melody += int(np.sign(repeats[1, step % 64] - 0.5 - 0.08 * melody) * (1 + (step % 3 == 0)))
            degree = root + 2 * (melody // 2) if step % 4 == 0 else root + melody
            play("lead", step, pitch(degree, register + 12 + 1.7 * melody), 3 * short, 0.26, attack / 2, 0.5)
        if repeats[1, (step * 7) % 64] < 0.5:
            play(
                "bells",
                step,
                pitch(root + 2 * (step % 4), 90),
                3,
                0.25 * 10 ** (1.5 * (at["sparkle"][step] - 1)),
                0.002,
                0.15,
            )
        power = 1.2 * 10 ** (1.5 * (at["percussion"][step] - 1))
        beat = step % 16
        for drum, hit in (
            ("kick", beat in (0, 8) or (beat in (6, 10) and lively[step] < density)),
            ("snare", beat in (4, 12)),
            ("hat", beat % 2 == 0 or lively[step] < density),
        ):
            if hit:
                shot = kit[drum]
                stop = min(onsets[step] + len(shot), n)
                bus["drums"][onsets[step] : stop] += power * accents[step] * shot[: stop - onsets[step]]

    return _mix(bus, cue, time, n, sound, song)


def _instrument(rng):
    """A timbre: (2, 30) complex harmonics of the sound at its attack and after it."""
    k = np.arange(1, 31)
    slope = rng.uniform(1, 1.5)
    formants = sum(rng.uniform(0, 3) * np.exp(-(((k - rng.uniform(1, 12)) / 2) ** 2)) for _ in range(2))
    odd = np.where(k % 2 == 0, rng.uniform(0.2, 1), 1)
    harmonics = k**-slope * odd * (1 + formants)
    harmonics = np.stack([harmonics, harmonics * k**-0.7]) * np.exp(2j * np.pi * rng.random(30))
    return harmonics / np.linalg.norm(harmonics[0]) * math.sqrt(2)


def _note(cache, name, harmonics, pitch, samples, attack, decay):
    """A note, (samples,) float32: bright at its onset, duller later; decay in seconds, None for a held sound."""
    key = (name, pitch)
    if key not in cache or cache[key].shape[1] < samples:
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        count = min(30, int(0.9 * RATE / 2 / frequency))  # no aliases
        spectrum = np.zeros((2, 1025), complex)
        spectrum[:, 1 : count + 1] = harmonics[:, :count] * 1024
        index = (np.arange(max(samples, RATE)) * (2048 * frequency / RATE)).astype(np.int64) % 2048
        cache[key] = np.fft.irfft(spectrum).astype(np.float32)[:, index]
    t = np.arange(samples, dtype=np.float32) / RATE
    bright, dull = cache[key][:, :samples]
    envelope = np.minimum(t / attack, 1) * np.minimum((samples / RATE - t) / 0.02, 1)
    if decay is not None:
        envelope *= np.exp(t / -decay)
    return (dull + np.exp(t * -6) * (bright - dull)) * envelope


def _kit(rng):
    """Kick, snare and hi-hat, each (samples,) float32."""
    t = np.arange(int(0.25 * RATE)) / RATE
    noise = rng.standard_normal(len(t))
    low = rng.uniform(45, 65)
    kick = np.sin(2 * np.pi * (low * t - 3 * np.exp(-t * 40))) * np.exp(-t * rng.uniform(12, 20))
    body = np.sin(2 * np.pi * rng.uniform(160, 220) * t)
    snare = (0.4 * body + 0.5 * noise) * np.exp(-t * rng.uniform(14, 26))
    high = sosfilt(butter(2, rng.uniform(5000, 7500), "high", fs=RATE, output="sos"), noise)
    hat = 0.5 * high * np.exp(-t * rng.uniform(30, 70))
    return {"kick": kick.astype(np.float32), "snare": snare.astype(np.float32), "hat": hat.astype(np.float32)}


def _mix(bus, cue, time, n, sound, song):
    """The instruments' tracks as one stereo recording, (samples, 2), float32 at 44.1 kHz, |x| < 1."""
    t = np.arange(n, dtype=np.float32) / RATE
    moving = {
        "drone": 0.25 * 10 ** (-1.5 * cue["rumble"]),  # 30 dB
        "highs": 1.5 * 10 ** (-1.3 * (1 - cue["brightness"])),  # 26 dB
        "drive": 1 + 2 * cue["drive"],
        "loudness": 10 ** (0.6 * (cue["drive"] - 1)),  # 12 dB
    }
    moving = {name: np.interp(t, time, gain).astype(np.float32)[:, None] for name, gain in moving.items()}
    for pitch in song.uniform(24, 34, 3):  # a beating cluster of low drones
        bus["rumble"] += (t * (440 * 2 ** ((pitch - 57) / 12))) % 1 - 0.5
    bus["rumble"] *= moving["drone"][:, 0]
    level = 10 ** (song.normal(0, 1.5, len(bus)) / 20)
    bus = {name: gain * track for (name, track), gain in zip(bus.items(), level, strict=True)}
    low = butter(1, 900, fs=RATE, output="sos")
    tonal = bus["chords"] + bus["lead"] + bus["bass"]
    dark = sosfilt(low, tonal).astype(np.float32)
    tonal = dark + moving["highs"][:, 0] * (tonal - dark) + sosfilt(low, bus["rumble"]).astype(np.float32)
    pan = song.uniform(-0.5, 0.5, 2)
    drums, bells = bus["drums"], bus["bells"]
    dry = [tonal + drums * 0.6 + (1 + side * pan[0]) * bells + side * pan[1] * bus["lead"] for side in (-1, 1)]
    stereo = np.tanh(np.stack(dry, axis=1) * moving["drive"]) * moving["loudness"]
    room = sound.uniform(0.1, 0.45)
    wet = stereo.copy()
    for delay in song.uniform(0.01, 0.12, 5):  # early reflections
        d = int(delay * RATE)
        wet[d:] += room * math.exp(-12 * delay) * stereo[:-d, ::-1]
    wet += 10 ** (song.uniform(-60, -52) / 20) * song.standard_normal((n, 1), dtype=np.float32)
    wet = resample_poly(wet, 2, 1, axis=0)
    return (wet * (10 ** (song.uniform(-16, -1) / 20) / np.abs(wet).max())).astype(np.float32)
