"""Whole processes: how fast short programs start, and how much memory large jobs take."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from transformers import ASTFeatureExtractor

from ..config.settings import SpecAugmentConfig
from ..data.augment import TrainingTransform, with_transform
from ..data.features import LogMel
from ..modeling import ASTEmotionFeatureExtractor
from .figures import Figure, wall_seconds
from .workbench import RATE, Workbench, batches, exhaust, stored_songs

LEEWAY = 32.0  # megabytes that the allocator may keep; the log-mels of 192 more songs of 45 s would take 110


def startup(bench: Workbench) -> list[Figure]:
    """Short programs, wall time."""
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    seconds = wall_seconds(
        bench.repeats,
        predict=lambda: run([sys.executable, bench.predict, "--help"]),
        package=lambda: run([sys.executable, "-c", "import emotion_ft"]),
        bare=lambda: run([sys.executable, "-c", "pass"]),
    )
    predict, package, bare = map(list, seconds)
    return [
        Figure("startup", "predict --help", "s", predict, "bare Python", bare, target=1.0),
        Figure("startup", "import emotion_ft", "s", package, "bare Python", bare, target=0.3),
    ]


def peak_memory(work: Callable[[], object]) -> tuple[float, float]:
    """Private memory of this process, in megabytes: before `work`, and the most while it runs.

    Sampled every few milliseconds. Memory-mapped files do not count: the system can take their pages back at any time.
    """

    def own() -> float:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def watch() -> None:
        while not done.wait(0.002):
            samples.append(own())

    done, samples = threading.Event(), [own()]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return samples[0], max(samples)


def songs_memory(files: list[Path], folder: Path, few: int, count: int) -> float:
    """Peak megabytes of a process that stores and reads `count` songs after a warm-up with `few`."""
    torch.set_num_threads(1)
    extractor = ASTEmotionFeatureExtractor()
    transform = TrainingTransform(extractor, SpecAugmentConfig(), seed=0)

    def work(count: int, folder: Path) -> None:
        songs = with_transform(stored_songs(files, count, folder, extractor), transform)
        exhaust([batches(songs), batches(songs)])

    work(few, folder / "warm_up")
    return peak_memory(partial(work, count, folder / "songs"))[1]


def file_memory(file: Path, second: Path, usual: bool) -> float:
    """Megabytes that turning `file` into a log-mel takes, in our or the usual way, after one second of silence."""
    torch.set_num_threads(1)
    store, stock = LogMel(ASTEmotionFeatureExtractor(), min_seconds=1.0), ASTFeatureExtractor()

    def work(path: Path) -> None:
        if usual:
            stock(librosa.load(path, sr=RATE)[0], sampling_rate=RATE)
        elif error := store({"path": str(path)})["error"]:
            raise RuntimeError(f"{path}: {error}")

    work(second)
    before, peak = peak_memory(partial(work, file))
    return peak - before


def long_file(song: Path, path: Path, minutes: int) -> Path:
    """Write an MP3 of so many minutes that repeats a song."""
    samples, rate = soundfile.read(song, dtype="float32")
    missing = 60 * minutes * rate
    with soundfile.SoundFile(path, "w", rate, samples.shape[1]) as file:
        while missing > 0:
            file.write(samples[:missing])
            missing -= len(samples)
    return path


def memory(bench: Workbench) -> list[Figure]:
    """The memory that more songs, and longer files, take (Linux)."""
    if not Path("/proc/self/statm").exists():
        return []
    second = bench.folder / "second.wav"
    soundfile.write(second, np.zeros(RATE), RATE)
    longs = {minutes: long_file(bench.files[0], bench.folder / f"{minutes}.mp3", minutes) for minutes in (1, 10)}
    few, many = bench.songs, 4 * bench.songs
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, max_tasks_per_child=1) as pool:
        songs = [pool.submit(songs_memory, bench.files, bench.folder / f"{n}", few, n) for n in (few, many)]
        jobs = {way: [pool.submit(file_memory, f, second, way) for f in longs.values()] for way in (False, True)}
        ours, peer = ([job.result() for job in jobs[way]] for way in (False, True))
        few_mb, many_mb = (job.result() for job in songs)
    usual = "librosa.load + ASTFeatureExtractor"
    return [
        Figure("memory", f"process storing {many} songs", "MB", [many_mb], f"{few} songs", [few_mb], few_mb + LEEWAY),
        *(
            Figure("memory", f"{minutes} min MP3 to log-mel, beyond the start", "MB", [mb], usual, [peer_mb])
            for minutes, mb, peer_mb in zip(longs, ours, peer, strict=True)
        ),
    ]
