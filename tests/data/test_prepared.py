"""Prepared collections: what is written is what is read, from folders and from URLs."""

import errno
import os
import re
import shutil
import signal

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, load_dataset

from emotion_ft.data import prepared, shards
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.features import BadFile, LogMel, TooManyBadFiles, store_log_mels
from emotion_ft.data.prepared import load_prepared, read_about, refuse_in_use
from emotion_ft.data.shards import finish_prepared, plan_shards, store_shards
from emotion_ft.errors import SAME_COMMAND, UsageError
from emotion_ft.faults import DiskError, WorkerKilled
from emotion_ft.modeling import ASTEmotionFeatureExtractor

TREATMENTS = ("repaired", "distributed")


@pytest.fixture(scope="module")
def tables(songs_root):
    return {labels: load_songs(songs_root, labels) for labels in TREATMENTS}


@pytest.fixture(scope="module")
def stored(tables, tiny_extractor, tmp_path_factory):
    """All songs with their log-mels, from their audio."""
    return store_log_mels(DatasetDict(all=tables["distributed"]), tiny_extractor, tmp_path_factory.mktemp("audio"))[0][
        "all"
    ]


def write(output, tables, log_mel, **options):
    planned = plan_shards(tables)
    store_shards(output, planned, log_mel)
    assert finish_prepared(output, tables, planned, log_mel, **options) == []
    return output


class Some(LogMel):
    """As if songs from a certain id on could not be decoded."""

    def __call__(self, row):
        return {"error": "no music"} if row["song_id"] >= 1030 else super().__call__(row)


class Louder(LogMel):
    def __call__(self, row):
        made = super().__call__(row)
        return made | {"log_mel": (np.frombuffer(made["log_mel"], np.float16) + 1).astype(np.float16).tobytes()}


class Dying(LogMel):
    def __call__(self, row):
        if row["song_id"] == 1025:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(row)


@pytest.fixture(scope="module")
def folder(tables, tiny_extractor, tmp_path_factory):
    """A prepared collection in three Parquet files. Shared: copy it before changing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_SONGS", 10)
        return write(tmp_path_factory.mktemp("prepared"), tables, LogMel(tiny_extractor, 1.0))


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def store(source, extractor, cache_dir, **options):
    return store_log_mels(DatasetDict(all=load_prepared(str(source), "repaired")), extractor, cache_dir, **options)


def log_mels(songs):
    return dict(zip(songs["song_id"], songs["log_mel"], strict=True))


class TestRoundTrip:
    def test_labels_are_those_of_the_collection(self, folder, tables):
        for labels, songs in tables.items():
            found = load_prepared(str(folder), labels)
            assert found.info.description == songs.info.description and found.features == songs.features
            for name in set(songs.column_names) - {"audio"}:
                assert found[name][:] == songs[name][:], name

    @pytest.mark.parametrize("num_proc", [1, 2])
    def test_log_mels_are_those_of_the_audio(self, folder, stored, tiny_extractor, tmp_path, num_proc):
        found, bad = store(folder, tiny_extractor, tmp_path, num_proc=num_proc)
        assert log_mels(found["all"]) == log_mels(stored) and not bad
        assert found["all"]["frames"][:] == stored["frames"][:]

    def test_one_row_group_per_song(self, folder, stored):
        files = sorted((folder / "log_mels").iterdir())
        assert [file.name for file in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
        assert [pq.ParquetFile(file).num_row_groups for file in files] == [10, 10, 4]

    def test_says_what_it_contains(self, folder, stored, tiny_extractor):
        about = read_about(folder)
        assert about["songs"] == len(stored) == 24 and about["left_out"] == 0
        assert about["seconds"] == pytest.approx(sum(stored["frames"]) / 50, abs=1)
        assert list(about["descriptions"]) == list(TREATMENTS)
        assert about["front_end"]["hop_length"] == tiny_extractor.hop_length == 320

    def test_from_any_url_that_fsspec_knows(self, folder, stored, tiny_extractor, tmp_path):
        fsspec.filesystem("memory").put(str(folder), "memory://shared/songs", recursive=True)
        found, _ = store("memory://shared/songs/", tiny_extractor, tmp_path)
        assert log_mels(found["all"]) == log_mels(stored)

    def test_datasets_alone_reads_it(self, folder, stored, tmp_path):
        data_files = str(folder / "log_mels" / "*.parquet")
        rows = load_dataset("parquet", data_files=data_files, split="train", streaming=True)
        assert {row["song_id"]: row["log_mel"] for row in rows} == log_mels(stored)

    def test_written_again_it_has_the_same_bytes_and_no_old_files(self, copied, tables, tiny_extractor):
        def written():
            write(copied, tables, LogMel(tiny_extractor, 1.0))
            return {path.relative_to(copied).as_posix(): path.read_bytes() for path in copied.rglob("*.*")}

        first = written()
        assert set(first) == {"collection.json", "log_mels/00000.parquet"} | {
            f"labels/{t}.parquet" for t in TREATMENTS
        }
        assert written() == first

    def test_songs_that_could_not_be_decoded_are_not_there(self, tables, stored, tiny_extractor, tmp_path):
        with pytest.raises(TooManyBadFiles, match=r"4 of 24 audio files cannot be used \(1030.wav: no music; "):
            write(tmp_path, tables, Some(tiny_extractor, 1.0))
        write(tmp_path, tables, Some(tiny_extractor, 1.0), max_bad_fraction=0.2)
        assert read_about(tmp_path)["left_out"] == 4
        assert load_prepared(str(tmp_path), "repaired")["song_id"][:] == stored["song_id"][:20]


class TestReading:
    def test_stores_again_when_the_files_change(self, copied, stored, tables, tiny_extractor, tmp_path):
        store(copied, tiny_extractor, tmp_path)
        shutil.rmtree(copied / "log_mels")
        write(copied, tables, Louder(tiny_extractor, 1.0))
        for cached in (prepared._open, prepared._state, prepared._read_about):
            cached.cache_clear()  # as in a new process
        found, _ = store(copied, tiny_extractor, tmp_path)
        louder = {song_id: np.frombuffer(log_mel, np.float16) + 1 for song_id, log_mel in log_mels(stored).items()}
        assert log_mels(found["all"]) == {i: log_mel.astype(np.float16).tobytes() for i, log_mel in louder.items()}

    def test_songs_that_are_too_short_are_bad(self, folder, stored, tiny_extractor, tmp_path):
        frames = dict(zip(stored["song_id"], stored["frames"], strict=True))
        found, bad = store(folder, tiny_extractor, tmp_path, min_seconds=3.5, max_bad_fraction=1.0)
        short = {song_id for song_id, length in frames.items() if length / 50 < 3.5}
        assert 0 < len(short) < 24
        assert {file.song_id for file in bad} == short and isinstance(bad[0], BadFile)
        assert bad[0].reason == f"too short: {frames[bad[0].song_id] / 50:.2f} s"
        assert set(found["all"]["song_id"]) == frames.keys() - short
        with pytest.raises(TooManyBadFiles):
            store(folder, tiny_extractor, tmp_path, min_seconds=3.5)

    def test_another_front_end_is_refused_and_named(self, folder, tmp_path):
        with pytest.raises(UsageError, match="hop_length 320, not 160: change the section 'audio' to match"):
            store(folder, ASTEmotionFeatureExtractor(max_length=101, hop_length=160), tmp_path)

    def test_other_windows_are_not(self, folder, tmp_path):
        assert store(folder, ASTEmotionFeatureExtractor(max_length=51, num_windows=7), tmp_path)

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("nowhere/atall", "cannot read a prepared collection from 'nowhere/atall'"),
            ("not a name", "cannot read a prepared collection from 'not a name'"),
            ("a/b/c", "must be a folder written by `emotion-ft prepare`, a dataset on the Hub"),
            ("memory://nowhere", "cannot read a prepared collection from 'memory://nowhere'"),
            ("unheard://of", "cannot read a prepared collection from 'unheard://of'"),
        ],
    )
    def test_what_is_not_there(self, source, reason):
        with pytest.raises(UsageError, match=reason) as raised:
            load_prepared(source, "repaired")
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("name", ["collection.json", "labels/repaired.parquet", "log_mels/00001.parquet"])
    @pytest.mark.parametrize("content", [None, b"", b"half of it"])
    def test_what_is_incomplete(self, copied, tiny_extractor, tmp_path, name, content):
        (copied / name).unlink()
        if content is not None:
            (copied / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"cannot read a prepared collection from '{re.escape(str(copied))}'"):
            store(copied, tiny_extractor, tmp_path)

    def test_labels_that_it_does_not_have(self, folder):
        with pytest.raises(UsageError, match="has no labels 'dynamic', only repaired, distributed"):
            load_prepared(str(folder), "dynamic")

    @pytest.mark.parametrize("file", ["../secret/2.mp3", "/etc/passwd", "log_mels/../../x.parquet/2.mp3", "2.mp3"])
    def test_no_path_leads_out_of_it(self, copied, file):
        path = copied / "labels" / "repaired.parquet"
        table = pq.read_table(path)
        files = [file, *table["file"].to_pylist()[1:]]
        pq.write_table(table.set_column(table.schema.get_field_index("file"), "file", pa.array(files)), path)
        with pytest.raises(UsageError, match="a log-mel cannot be at"):
            load_prepared(str(copied), "repaired")


class TestWhereItIsWritten:
    def test_a_folder_in_use_is_refused(self, folder, tmp_path):
        refuse_in_use(tmp_path / "new")
        refuse_in_use(tmp_path)
        refuse_in_use(folder)
        (tmp_path / "labels").mkdir()
        refuse_in_use(tmp_path)  # what a killed run leaves
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UsageError, match=r"is in use \(thesis.tex\): choose a new or an empty folder"):
            refuse_in_use(tmp_path)
        with pytest.raises(UsageError, match="a file"):
            refuse_in_use(tmp_path / "thesis.tex")

    def test_urls_too(self):
        refuse_in_use("memory://new/songs")
        fsspec.filesystem("memory").pipe_file("/taken/thesis.tex", b"")
        with pytest.raises(UsageError, match=r"'memory://taken' is in use \(thesis.tex\)"):
            refuse_in_use("memory://taken")
        with pytest.raises(UsageError, match="cannot write to 'unheard://of', which must be a folder or a URL"):
            refuse_in_use("unheard://of")

    def test_an_unfinished_one_is_not_read(self, copied, tables, tiny_extractor, monkeypatch):
        def killed(folder, system, root, name):
            raise KeyboardInterrupt

        monkeypatch.setattr(shards, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            write(copied, tables, LogMel(tiny_extractor, 1.0))
        with pytest.raises(UsageError, match="cannot read a prepared collection"):
            load_prepared(str(copied), "repaired")


class Counting(LogMel):
    """Records in a file which songs it decodes; stops at one of them."""

    def __init__(self, extractor, seen, stop_at=None):
        super().__init__(extractor, 1.0)
        self.seen, self.stop_at = seen, stop_at

    def __call__(self, row):
        if row["song_id"] == self.stop_at:
            raise KeyboardInterrupt
        with self.seen.open("a") as file:
            file.write(f"{row['song_id']}\n")
        return super().__call__(row)

    def decoded(self):
        return sorted(map(int, self.seen.read_text().split())) if self.seen.exists() else []


def content(output):
    """All files of a prepared collection in a folder or at a URL, by name."""
    system, root = fsspec.url_to_fs(str(output))
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


class TestSideBySide:
    @pytest.fixture(autouse=True)
    def small_shards(self, monkeypatch):
        monkeypatch.setattr(shards, "SHARD_SONGS", 10)

    def test_whoever_finishes_again_leaves_it_to_its_readers(self, copied, tables, tiny_extractor, monkeypatch):
        """Several processes finish at once, and one may read what another would replace."""
        removed, planned, log_mel = [], plan_shards(tables), LogMel(tiny_extractor, 1.0)
        monkeypatch.setattr(shards, "_remove", lambda system, path: removed.append(path))
        assert finish_prepared(copied, tables, planned, log_mel) == [] and not removed
        (copied / "labels" / "distributed.parquet").write_bytes(b"of other labels")
        assert finish_prepared(copied, tables, planned, log_mel) == [] and removed
        pd.read_parquet(copied / "labels" / "distributed.parquet")

    @pytest.mark.parametrize("place", ["folder", "url"])
    def test_parts_make_the_same_bytes_and_the_last_one_finishes(
        self, folder, tables, tiny_extractor, tmp_path, place
    ):
        output = tmp_path / "parts" if place == "folder" else "memory://parts/songs"
        planned = plan_shards(tables)
        for part, expected in ((1, range(1020, 1030)), (0, [*range(1010, 1020), *range(1030, 1034)])):
            log_mel = Counting(tiny_extractor, tmp_path / f"seen-{part}")
            store_shards(output, planned[part::2], log_mel)
            assert log_mel.decoded() == list(expected)  # its own songs, and no others
            missing = finish_prepared(output, tables, planned, log_mel)
            if part == 1:
                assert missing == ["log_mels/00000.parquet", "log_mels/00002.parquet"]
                with pytest.raises(UsageError, match="cannot read a prepared collection"):
                    load_prepared(str(output), "repaired")
        assert missing == [] and content(output) == content(folder)

    def test_written_to_a_url_it_is_streamed_from_there(self, tables, stored, tiny_extractor, tmp_path):
        write("memory://written/songs", tables, LogMel(tiny_extractor, 1.0))
        assert log_mels(store("memory://written/songs", tiny_extractor, tmp_path)[0]["all"]) == log_mels(stored)
        data_files = "memory://written/songs/log_mels/*.parquet"
        rows = load_dataset("parquet", data_files=data_files, split="train", streaming=True)
        assert {row["song_id"]: row["log_mel"] for row in rows} == log_mels(stored)

    def test_a_killed_run_resumes_with_the_first_incomplete_shard(self, folder, tables, tiny_extractor, tmp_path):
        output, planned = tmp_path / "killed", plan_shards(tables)
        with pytest.raises(KeyboardInterrupt):
            store_shards(output, planned, Counting(tiny_extractor, tmp_path / "first", stop_at=1025))
        assert sorted(content(output)) == ["log_mels/00000.parquet"]
        half = (folder / "log_mels" / "00001.parquet").read_bytes()
        (output / "log_mels" / "00001.parquet").write_bytes(half[: len(half) // 2])  # a store that is not atomic
        (output / "log_mels" / ".part-x").mkdir()
        (output / "log_mels" / ".part-x" / "00002.parquet").write_bytes(b"half of it")  # of a process that was killed
        log_mel = Counting(tiny_extractor, tmp_path / "second")
        assert finish_prepared(output, tables, planned, log_mel) == ["log_mels/00002.parquet"]
        refuse_in_use(output)
        store_shards(output, planned, log_mel)
        assert log_mel.decoded() == list(range(1020, 1034))
        assert finish_prepared(output, tables, planned, log_mel) == []
        assert content(output) == content(folder) and not (output / "log_mels" / ".part-x").exists()

    def test_a_killed_worker_is_one_sentence_and_leaves_whole_shards(self, tables, tiny_extractor, tmp_path):
        planned = plan_shards(tables)
        with pytest.raises(WorkerKilled, match=rf"lower num_proc \(1\); {SAME_COMMAND}"):
            store_shards(tmp_path, planned, Dying(tiny_extractor, 1.0))
        assert sorted(content(tmp_path)) == ["log_mels/00000.parquet"]

    def test_a_full_disk_is_one_sentence(self, tables, tiny_extractor, tmp_path, monkeypatch):
        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(DiskError, match=r"No space left on device.* or choose another --output"):
            store_shards(tmp_path, plan_shards(tables), LogMel(tiny_extractor, 1.0))
        assert not content(tmp_path)

    def test_half_a_shard_is_not_finished(self, copied, tables, tiny_extractor):
        planned, log_mel = plan_shards(tables), LogMel(tiny_extractor, 1.0)
        shard = copied / "log_mels" / "00001.parquet"
        shard.write_bytes(shard.read_bytes()[:-100])
        assert finish_prepared(copied, tables, planned, log_mel) == ["log_mels/00001.parquet"]

    @pytest.mark.parametrize("change", ["front end", "shortest song", "audio file"])
    def test_what_was_made_from_something_else_is_made_again(
        self, copied, songs_root, tiny_extractor, tmp_path, change
    ):
        root = shutil.copytree(songs_root, tmp_path / "songs")
        tables = {labels: load_songs(root, labels) for labels in TREATMENTS}
        log_mel = Counting(tiny_extractor, tmp_path / "seen")
        expected = list(range(1010, 1034))
        if change == "front end":
            log_mel.extractor = ASTEmotionFeatureExtractor(max_length=101, hop_length=160)
            log_mel.front_end = log_mel.front_end | {"hop_length": 160}
        elif change == "shortest song":
            log_mel.min_seconds = 2.0
        else:
            shutil.copy(root / "DEAM_audio/MEMD_audio/1021.wav", root / "DEAM_audio/MEMD_audio/1022.wav")
            expected = list(range(1020, 1030))
        store_shards(copied, plan_shards(tables), log_mel)
        assert log_mel.decoded() == expected and not (copied / "collection.json").exists()

    def test_other_labels_decode_nothing(self, copied, tables, tiny_extractor, tmp_path):
        log_mel = Counting(tiny_extractor, tmp_path / "seen")
        store_shards(copied, plan_shards(tables), log_mel)
        finish_prepared(copied, {"repaired": tables["repaired"]}, plan_shards(tables), log_mel)
        assert not log_mel.decoded() and not (copied / "labels" / "distributed.parquet").exists()
        assert list(read_about(copied)["descriptions"]) == ["repaired"]

    def test_num_proc_changes_no_byte(self, folder, tables, tiny_extractor, tmp_path):
        planned, log_mel = plan_shards(tables), LogMel(tiny_extractor, 1.0)
        store_shards(tmp_path, planned, log_mel, num_proc=2)
        finish_prepared(tmp_path, tables, planned, log_mel)
        assert content(tmp_path) == content(folder)
