"""A prepared collection written from MP3s, read song by song, and streamed: CPU time on one core, with workers."""

import resource
from pathlib import Path

from datasets import load_dataset

from ..data.features import LogMel
from ..data.prepared import load_prepared, read_prepared
from ..data.shards import finish_prepared, plan_shards, store_shards
from ..data.songs import songs_dataset
from .figures import Figure, interleave
from .songs import one_core
from .workbench import Workbench, exhaust


def cpu_seconds() -> float:
    """CPU time of this process and of its child processes that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@one_core
def prepare(bench: Workbench) -> list[Figure]:
    """From MP3s to a prepared collection and back, on one core, workers included."""
    count, log_mel = bench.songs, LogMel(bench.extractor, min_seconds=1.0)
    audio = [bench.files[i % len(bench.files)] for i in range(count)]
    labels = {"valence": [5.0] * count, "arousal": [5.0] * count}
    tables = {"distributed": songs_dataset({"song_id": list(range(count)), "audio": audio, **labels}, "rendered")}
    shards = plan_shards(tables)

    def write(folder: Path) -> Path:
        store_shards(folder, shards, log_mel)
        finish_prepared(folder, tables, shards, log_mel)
        return folder

    folders = (bench.folder / f"prepared_{i}" for i in range(bench.repeats + 1))
    (written,) = interleave(bench.repeats, cpu_seconds, ours=lambda: write(next(folders)))
    folder = write(bench.folder / "prepared_0")
    songs = load_prepared(str(folder), "distributed")
    places = [(audio["path"], song_id) for audio, song_id in zip(songs["audio"], songs["song_id"], strict=True)]
    files = str(folder / "log_mels" / "*.parquet")
    by_song, streamed = interleave(
        bench.repeats,
        cpu_seconds,
        by_song=lambda: [read_prepared(*place, log_mel.front_end) for place in places],
        streamed=lambda: exhaust([load_dataset("parquet", data_files=files, split="train", streaming=True)]),
    )
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    song = f"a song of {bench.seconds:g} s"
    return [
        Figure("prepare", f"{song} to Parquet", "ms", 1e3 * written / count),
        Figure("prepare", f"on disk, {song}", "KiB", [size / 1024 / count]),
        Figure("prepare", "read song by song", "songs/s", count / by_song, higher_is_better=True),
        Figure("prepare", "streamed by datasets", "songs/s", count / streamed, higher_is_better=True),
    ]
