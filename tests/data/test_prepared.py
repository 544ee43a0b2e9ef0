"""Prepared collections: what is written is what is read, from folders and URLs, and nothing else is."""

import json
import re
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, load_dataset

from emotion_ft.data import prepared
from emotion_ft.data.deam import load_songs
from emotion_ft.data.features import BadFile, TooManyBadFiles, front_end, store_log_mels
from emotion_ft.data.prepared import load_prepared, read_about, refuse_in_use, write_prepared
from emotion_ft.errors import UsageError
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


@pytest.fixture(scope="module")
def folder(tables, stored, tiny_extractor, tmp_path_factory):
    """A prepared collection in three Parquet files. Shared: copy before changing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "SHARD_SONGS", 10)
        return write_prepared(tmp_path_factory.mktemp("prepared"), tables, stored, front_end(tiny_extractor))


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

    def test_a_row_group_a_song(self, folder, stored):
        files = sorted((folder / "log_mels").iterdir())
        assert [file.name for file in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
        assert [pq.ParquetFile(file).num_row_groups for file in files] == [10, 10, 4]

    def test_says_what_it_holds(self, folder, stored, tiny_extractor):
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

    def test_written_again_it_is_the_same_to_the_byte_and_has_no_old_files(
        self, copied, tables, stored, tiny_extractor
    ):
        def written():
            write_prepared(copied, tables, stored, front_end(tiny_extractor))
            return {path.relative_to(copied).as_posix(): path.read_bytes() for path in copied.rglob("*.*")}

        first = written()
        assert set(first) == {"collection.json", "log_mels/00000.parquet"} | {
            f"labels/{t}.parquet" for t in TREATMENTS
        }
        assert written() == first

    def test_songs_that_could_not_be_decoded_are_not_there(self, tables, stored, tiny_extractor, tmp_path):
        write_prepared(tmp_path, tables, stored.select(range(20)), front_end(tiny_extractor))
        assert read_about(tmp_path)["left_out"] == 4
        assert load_prepared(str(tmp_path), "repaired")["song_id"][:] == stored["song_id"][:20]


class TestReading:
    def test_stores_again_when_the_files_change(self, copied, stored, tables, tiny_extractor, tmp_path):
        store(copied, tiny_extractor, tmp_path)
        louder = stored.map(
            lambda row: {"log_mel": (np.frombuffer(row["log_mel"], np.float16) + 1).astype(np.float16).tobytes()}
        )
        write_prepared(copied, tables, louder, front_end(tiny_extractor))
        for cached in (prepared._open, prepared._state, prepared._read_about):
            cached.cache_clear()  # as in a new process
        found, _ = store(copied, tiny_extractor, tmp_path)
        assert log_mels(found["all"]) == log_mels(louder) != log_mels(stored)

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
        with pytest.raises(UsageError, match="were made with hop_length 320, not 160: set the section 'audio'"):
            store(folder, ASTEmotionFeatureExtractor(max_length=101, hop_length=160), tmp_path)

    def test_other_windows_are_not(self, folder, tmp_path):
        assert store(folder, ASTEmotionFeatureExtractor(max_length=51, num_windows=7), tmp_path)

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("nowhere/atall", "cannot read a prepared collection from 'nowhere/atall'"),
            ("not a name", "cannot read a prepared collection from 'not a name'"),
            ("a/b/c", "must be a folder of recipes/prepare.py, a data set on the Hub"),
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
    def test_what_is_not_whole(self, copied, tiny_extractor, tmp_path, name, content):
        (copied / name).unlink()
        if content is not None:
            (copied / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"cannot read a prepared collection from '{re.escape(str(copied))}'"):
            store(copied, tiny_extractor, tmp_path)

    def test_labels_that_it_does_not_have(self, folder):
        with pytest.raises(UsageError, match="holds no labels 'dynamic', but repaired, distributed"):
            load_prepared(str(folder), "dynamic")

    @pytest.mark.parametrize("file", ["../secret/2.mp3", "/etc/passwd", "log_mels/../../x.parquet/2.mp3", "2.mp3"])
    def test_no_path_leads_out_of_it(self, copied, file):
        path = copied / "labels" / "repaired.parquet"
        table = pq.read_table(path)
        files = [file, *table["file"].to_pylist()[1:]]
        pq.write_table(table.set_column(table.schema.get_field_index("file"), "file", pa.array(files)), path)
        with pytest.raises(UsageError, match="a log-mel cannot lie at"):
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

    def test_one_that_is_not_finished_is_none(self, copied, tables, stored, tiny_extractor, monkeypatch):
        def killed(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(json, "dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            write_prepared(copied, tables, stored, front_end(tiny_extractor))
        monkeypatch.undo()
        with pytest.raises(UsageError, match="cannot read a prepared collection"):
            load_prepared(str(copied), "repaired")
