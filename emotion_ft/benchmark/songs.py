"""A song on its way into a batch, CPU time on one core: decoded, turned into a log-mel, stored, read."""

import itertools
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from transformers import ASTFeatureExtractor

from ..config.settings import SpecAugmentConfig
from ..data.audio import read_audio, read_pieces
from ..data.augment import TrainingTransform, with_transform
from ..data.features import PART_SIZE, LogMel
from .figures import Figure, core_seconds, wall_seconds
from .workbench import BATCH, RATE, Workbench, batches, exhaust, stored_songs


def one_core(section: Callable[[Workbench], list[Figure]]) -> Callable[[Workbench], list[Figure]]:
    """Run a section with a single torch thread."""

    @wraps(section)
    def wrapper(bench: Workbench) -> list[Figure]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return section(bench)
        finally:
            torch.set_num_threads(threads)

    return wrapper


@one_core
def decode(bench: Workbench) -> list[Figure]:
    """From an MP3 to a mono waveform at 16 kHz, on one core."""
    files, native = bench.files, soundfile.info(bench.files[0]).samplerate
    runs = core_seconds(
        bench.repeats,
        mono=lambda: exhaust(read_pieces(file, native) for file in files),
        peer_mono=lambda: [librosa.load(file, sr=None) for file in files],
        ours=lambda: exhaust(read_pieces(file, RATE) for file in files),
        peer=lambda: [librosa.load(file, sr=RATE) for file in files],
    )
    mono, peer_mono, ours, peer = (1e3 * seconds / len(files) for seconds in runs)
    bit_rate = sum(file.stat().st_size for file in files) * 8 / 1000 / len(files) / bench.seconds
    song = f"{bench.seconds:g} s MP3"
    lines = [
        (f"decode and down-mix, {song}, {bit_rate:.0f} kbit/s", mono, "librosa.load(sr=None)", peer_mono),
        ("resample to 16 kHz, by difference", ours - mono, "librosa, by difference", peer - peer_mono),
        (f"{song} to waveform", ours, "librosa.load(sr=16000)", peer),
    ]
    return [Figure("decode", name, "ms", ours, peer, theirs) for name, ours, peer, theirs in lines]


@one_core
def features(bench: Workbench) -> list[Figure]:
    """From an MP3 to the bytes of its float16 log-mel, on one core."""
    files, store, stock = bench.files, LogMel(bench.extractor, min_seconds=1.0), ASTFeatureExtractor()
    waveforms = [read_audio(file, RATE) for file in files]
    runs = core_seconds(
        bench.repeats,
        mel=lambda: [bench.extractor.log_mel(waveform).astype(np.float16) for waveform in waveforms],
        peer_mel=lambda: [stock(waveform, sampling_rate=RATE) for waveform in waveforms],
        ours=lambda: [store({"path": str(file)}) for file in files],
        peer=lambda: [stock(librosa.load(file, sr=RATE)[0], sampling_rate=RATE) for file in files],
    )
    mel, peer_mel, ours, peer = (1e3 * seconds / len(files) for seconds in runs)
    target = 130.0 if bench.seconds == 45 else None
    usual, length = "ASTFeatureExtractor", f"{bench.seconds:g} s"
    return [
        Figure("features", f"{length} waveform to log-mel", "ms", mel, usual, peer_mel),
        Figure("features", f"{length} MP3 to log-mel", "ms", ours, f"librosa.load + {usual}", peer, target),
    ]


def processes(bench: Workbench) -> list[Figure]:
    """Songs stored in Arrow files by one process and by two, in wall time."""
    folders = (bench.folder / f"processes_{i}" for i in itertools.count())
    files = [bench.files[i % len(bench.files)] for i in range(max(bench.songs, 2 * PART_SIZE))]

    def run(num_proc: int) -> None:
        stored_songs(files, len(files), next(folders), bench.extractor, num_proc)

    one, two = wall_seconds(min(bench.repeats, 3), one=lambda: run(1), two=lambda: run(2))
    name = f"store_log_mels, a song of {bench.seconds:g} s, two processes"
    return [
        Figure("processes", name, "ms", 1e3 * two / len(files), "one process", 1e3 * one / len(files)),
        Figure("processes", "times faster with two", "x", one / two, target=1.6, higher_is_better=True),
    ]


@one_core
def store(bench: Workbench) -> list[Figure]:
    """Songs stored in Arrow files, on one core: time, and bytes on disk."""
    folders = (bench.folder / f"store_{i}" for i in range(bench.repeats + 1))
    count = len(bench.files)
    (seconds,) = core_seconds(
        bench.repeats, ours=lambda: stored_songs(bench.files, count, next(folders), bench.extractor)
    )
    sizes = [sum(Path(f["filename"]).stat().st_size for f in t.cache_files) for t in (bench.stored, bench.clips)]
    ours, peer = sizes[0] / 1024 / bench.songs, sizes[1] / 1024 / min(bench.songs, BATCH)
    song = f"a song of {bench.seconds:g} s"
    return [
        Figure("store", f"store_log_mels, {song}", "ms", 1e3 * seconds / count),
        Figure("store", f"on disk, {song}", "KiB", [ours], "nested lists of float32", [peer]),
    ]


@one_core
def loader(bench: Workbench) -> list[Figure]:
    """Training batches of 16 windows of 10 s from the stored songs, on one core."""
    length = bench.extractor.max_length
    whole = [row for row, frames in enumerate(bench.clips["frames"]) if frames == length]
    clips = bench.clips.select(whole).select_columns("input_values")
    epochs = max(1, 512 // bench.songs)

    def read(augmentation: SpecAugmentConfig | None) -> None:
        transform = TrainingTransform(bench.extractor, augmentation, seed=0)
        songs = with_transform(bench.stored, transform)
        for epoch in range(epochs):
            transform.set_epoch(epoch)
            exhaust([batches(songs)])

    def spectrograms() -> None:
        for _ in range(epochs):
            for rows in bench.stored.select_columns("log_mel").iter(BATCH):
                for log_mel in rows["log_mel"]:
                    values = np.frombuffer(log_mel, np.float16).reshape(-1, bench.extractor.num_mel_bins)
                    torch.from_numpy(values.copy())

    raw, plain, masked, peer = core_seconds(
        bench.repeats,
        raw=spectrograms,
        plain=lambda: read(None),
        masked=lambda: read(SpecAugmentConfig()),
        peer=lambda: exhaust([batches(clips)]),
    )
    lines = [("crop and standardise", plain, 2000.0), ("crop, standardise, SpecAugment", masked, 1000.0)]
    usual, rate = "nested lists, whole clips", len(clips) / peer
    length = bench.extractor.max_length / bench.stored["frames"][0]  # of a window, as a share of a song
    reading = epochs * bench.songs / raw / length
    return [
        Figure("loader", "stored songs to tensors", "windows/s", reading, usual, rate, None, True),
        Figure("loader", "times nested lists", "x", reading / rate, target=50.0, higher_is_better=True),
        *(
            Figure("loader", name, "windows/s", epochs * bench.songs / seconds, usual, rate, target, True)
            for name, seconds, target in lines
        ),
    ]
