import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio

from emotion_ft.data.collections.annotations import read_static
from emotion_ft.data.collections.deam import load_deam, load_songs
from emotion_ft.data.files import AnnotationError
from emotion_ft.data.splits import SPLIT_NAMES, SplitError, write_split

DEAM = Path(__file__).resolve().parents[4] / "shared" / "deam"
real = pytest.mark.skipif(not DEAM.is_dir(), reason="DEAM's annotations are not available")

SONG_IDS = [*range(2, 32), *range(1501, 1511), 2001, 2002]
EXCHANGED = range(2, 32)


@pytest.fixture
def root(tmp_path):
    """42 songs in DEAM's layout, valence and arousal exchanged up to id 31, with empty files for audio."""
    rng = np.random.default_rng(0)
    static = ["song_id, valence_mean, valence_std, arousal_mean, arousal_std"]
    curves = {
        "valence": ["song_id,sample_15000ms,sample_15500ms"],
        "arousal": ["song_id,sample_15000ms,sample_15500ms"],
    }
    audio = tmp_path / "DEAM_audio" / "MEMD_audio"
    audio.mkdir(parents=True)
    for song_id in SONG_IDS:
        valence, arousal = rng.uniform(-0.9, 0.9, 2)
        given = (arousal, 1, valence, 2) if song_id in EXCHANGED else (valence, 2, arousal, 1)
        static.append(f"{song_id},{given[0] * 4 + 5},{given[1]},{given[2] * 4 + 5},{given[3]}")
        curves["valence"].append(f"{song_id},{valence},{valence}")
        curves["arousal"].append(f"{song_id},{arousal},{arousal}")
        (audio / f"{song_id}.mp3").touch()
    artists = [f"{song_id},x,Artist {song_id % 10}" for song_id in EXCHANGED]
    for name, lines in {
        "static_annotations_averaged_songs_1_2000": static,
        **curves,
        "metadata_2013": ["song_id,file_name,Artist", *artists],
    }.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class TestLoadSongs:
    def test_rows(self, root, caplog):
        songs = load_songs(root)
        assert songs["song_id"][:] == SONG_IDS
        assert songs.features["audio"] == Audio(decode=False)
        row = songs[0]
        assert row["audio"] == {"bytes": None, "path": str(root / "DEAM_audio" / "MEMD_audio" / "2.mp3")}
        assert row["artist"] == "Artist 2" and songs[-1]["artist"] is None
        assert row["curve_start"] == 15 and len(row["curve_valence"]) == len(row["curve_arousal"]) == 2
        for name in ("valence", "arousal", "valence_std", "arousal_std", "curve_start"):
            assert songs.features[name].dtype == "float32"
        for name in ("curve_valence", "curve_arousal"):
            assert songs.features[name].feature.dtype == "float32"
        assert not warnings(caplog)

    def test_labels_repaired_and_distributed(self, root):
        songs = load_songs(root)
        assert songs["valence"] == pytest.approx([curve[0] * 4 + 5 for curve in songs["curve_valence"]], abs=1e-5)
        assert songs["arousal"] == pytest.approx([curve[0] * 4 + 5 for curve in songs["curve_arousal"]], abs=1e-5)
        assert set(songs["valence_std"]) == {2} and set(songs["arousal_std"]) == {1}
        assert songs.info.description == (
            "DEAM; labels repaired (valence and arousal exchanged back in 30 rows with ids ≤ 1000)"
        )
        distributed = load_songs(root, labels="distributed")
        assert distributed["valence"][:30] == songs["arousal"][:30]
        assert distributed["valence"][30:] == songs["valence"][30:]
        assert distributed["valence_std"][:31] == [1] * 30 + [2]
        assert distributed.info.description == "DEAM; labels as distributed"
        with pytest.raises(ValueError, match="'distributed' or 'dynamic', got 'fixed'"):
            load_songs(root, labels="fixed")

    def test_the_other_treatment_is_kept(self, root):
        repaired, distributed = load_songs(root), load_songs(root, "distributed")
        for songs, other in ((repaired, distributed), (distributed, repaired)):
            assert songs["other_valence"][:] == other["valence"][:] != songs["valence"][:]
            assert songs["other_arousal"][:] == other["arousal"][:]
        assert load_songs(root, "dynamic")["other_valence"][:] == repaired["valence"][:]
        assert [songs["labels"][0] for songs in (repaired, distributed)] == ["repaired", "distributed"]

    def test_what_cannot_be_decided_is_not_called_repaired(self, root):
        for name in ("valence.csv", "arousal.csv"):
            (root / name).write_text("\n".join((root / name).read_text().splitlines()[:5]) + "\n")
        songs = load_songs(root)
        assert set(songs["labels"]) == {"distributed"} and songs["other_valence"][0] is None
        assert songs.info.description == "DEAM; labels as distributed (too few dynamic annotations to repair them by)"

    def test_dynamic_labels_are_the_means_of_the_curves(self, root, caplog):
        songs = load_songs(root, labels="dynamic")
        for name in ("valence", "arousal"):
            means = [5 + 4 * np.mean(curve) for curve in songs[f"curve_{name}"]]
            assert songs[name] == pytest.approx(means, abs=1e-5)
        assert songs["valence_std"][0] is None and set(songs["labels"]) == {"dynamic"}
        assert songs.info.description == "DEAM; labels dynamic (means of the curves)" and not warnings(caplog)

    def test_dynamic_labels_need_curves(self, root, caplog):
        lines = (root / "valence.csv").read_text().splitlines()
        for name in ("valence.csv", "arousal.csv"):
            (root / name).write_text("\n".join((root / name).read_text().splitlines()[: len(lines) - 3]) + "\n")
        assert len(load_songs(root, labels="dynamic")) == len(load_songs(root)) - 3
        assert "left out 3 songs without a curve" in caplog.text
        for name in ("valence.csv", "arousal.csv"):
            (root / name).unlink()
        with pytest.raises(AnnotationError, match=r"need valence.csv and arousal.csv"):
            load_songs(root, labels="dynamic")

    def test_exchanged_ids_override_the_data(self, root):
        for name in ("valence.csv", "arousal.csv"):
            (root / name).unlink()
        distributed, told = load_songs(root), load_songs(root, exchanged_ids=(2, 13))
        assert "as distributed (no dynamic" in distributed.info.description
        inside = [2 <= song_id <= 13 for song_id in told["song_id"]]
        assert sum(inside) > 1 and told["other_valence"][:] == distributed["valence"][:]
        assert f"in {sum(inside)} rows with ids 2-13, as told" in told.info.description
        expected = np.where(np.array(inside), distributed["arousal"], distributed["valence"])
        assert told["valence"] == pytest.approx(expected)

    def test_raters(self, root):
        songs = load_songs(root)
        assert songs["raters"][:] == [5 if song_id > 2000 else 10 for song_id in songs["song_id"]]

    def test_nothing_to_repair(self, root):
        (root / "valence.csv").rename(root / "other.csv")
        (root / "arousal.csv").rename(root / "valence.csv")
        (root / "other.csv").rename(root / "arousal.csv")
        songs = load_songs(root)
        assert "exchanged back in 0 rows" in songs.info.description
        assert songs["valence"][:] == load_songs(root, labels="distributed")["valence"][:]

    def test_another_range_is_repaired_and_named(self, root):
        for path in root.glob("*.csv"):
            cells = [line.split(",", 1) for line in path.read_text().splitlines()]
            cells = [[str(int(key) + 1100) if key.isdecimal() and int(key) < 32 else key, rest] for key, rest in cells]
            path.write_text("".join(f"{key},{rest}\n" for key, rest in cells))
        for song_id in EXCHANGED:
            path = root / "DEAM_audio" / "MEMD_audio" / f"{song_id}.mp3"
            path.rename(path.with_name(f"{song_id + 1100}.mp3"))
        songs = load_songs(root)
        rows, first, last = re.search(r"back in (\d+) rows with ids (\d+)-(\d+)\)", songs.info.description).groups()
        assert 1102 <= int(first) <= 1105 and 1128 <= int(last) <= 1501 and 27 <= int(rows) <= 31
        wrong = np.abs(np.array(songs["valence"]) - [curve[0] * 4 + 5 for curve in songs["curve_valence"]]) > 1e-5
        assert wrong.sum() <= 3

    def test_without_dynamic_annotations(self, root):
        (root / "valence.csv").unlink()
        (root / "arousal.csv").unlink()
        row = load_songs(root, labels="distributed")[0]
        assert row["curve_start"] is None and row["curve_valence"] is None and row["curve_arousal"] is None

    def test_any_depth_suffix_and_case(self, root):
        folder = root / "DEAM_audio" / "MEMD_audio"
        (folder / "3.mp3").rename(root / "3.WAV")
        (folder / "4.mp3").rename(folder / "4.flac")
        (folder / "notes.wav").touch()
        (folder / "._5.mp3").touch()
        songs = load_songs(root)
        assert songs["song_id"][:] == SONG_IDS
        assert songs[1]["audio"]["path"] == str(root / "3.WAV")

    def test_relative_root_gives_absolute_paths(self, root, monkeypatch):
        monkeypatch.chdir(root.parent)
        assert load_songs(root.name)[0]["audio"]["path"].startswith(str(root))

    def test_left_out_on_either_side_is_counted_and_listed(self, root, caplog):
        folder = root / "DEAM_audio" / "MEMD_audio"
        for song_id in range(2, 14):
            (folder / f"{song_id}.mp3").unlink()
        (folder / "777.ogg").touch()
        songs = load_songs(root)
        assert songs["song_id"][:] == SONG_IDS[12:]
        assert "exchanged back in 18 rows" in songs.info.description
        assert warnings(caplog) == [
            "left out 12 annotated songs without audio: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...",
            "left out 1 audio files without static annotations: 777",
        ]

    def test_two_audio_files_of_one_song(self, root):
        first, second = root / "DEAM_audio" / "MEMD_audio" / "7.mp3", root / "zz" / "007.wav"
        second.parent.mkdir()
        second.touch()
        with pytest.raises(AnnotationError, match="two audio files for song 7") as error:
            load_songs(root)
        assert str(first) in str(error.value) and str(second) in str(error.value)

    def test_no_audio(self, root):
        for path in root.glob("DEAM_audio/MEMD_audio/*.mp3"):
            path.rename(path.with_suffix(".m4a"))
        with pytest.raises(AnnotationError, match="no audio for any of 42 annotated songs") as error:
            load_songs(root)
        assert str(root) in str(error.value) and "2.mp3" in str(error.value) and ".flac" in str(error.value)

    def test_missing_and_empty_root(self, tmp_path):
        with pytest.raises(AnnotationError, match="nowhere is not a folder"):
            load_songs(tmp_path / "nowhere")
        with pytest.raises(AnnotationError, match="contains no files"):
            load_songs(tmp_path)


class TestLoadDeam:
    def test_random_grouped_by_artist(self, root):
        splits = load_deam(root, validation_fraction=0.1, test_fraction=0.2)
        assert tuple(splits) == SPLIT_NAMES
        song_ids = [key for split in splits.values() for key in split["song_id"]]
        assert sorted(song_ids) == SONG_IDS
        artists = [set(filter(None, split["artist"])) for split in splits.values()]
        assert sum(map(len, artists)) == len(set.union(*artists)) == 10
        for split in splits.values():
            assert split.info.description == (
                "DEAM; labels repaired (valence and arousal exchanged back in 30 rows with ids ≤ 1000); "
                "split random, 0.1 validation, 0.2 test, grouped by artist (known for 30 of 42 songs), seed 42"
            )

    def test_rows_keep_their_song(self, root):
        songs = {row["song_id"]: row for row in load_songs(root)}
        for split in load_deam(root).values():
            assert all(row == songs[row["song_id"]] for row in split)

    def test_seed_and_fingerprint(self, root):
        first, again, other = load_deam(root), load_deam(root), load_deam(root, seed=1)
        for name in SPLIT_NAMES:
            assert first[name]["song_id"][:] == again[name]["song_id"][:]
            assert first[name]._fingerprint == again[name]._fingerprint
        assert first["train"]["song_id"][:] != other["train"]["song_id"][:]

    def test_ungrouped_reports_the_leak(self, root):
        splits = load_deam(root, validation_fraction=0.1, test_fraction=0.2, group_by_artist=False)
        train = set(filter(None, splits["train"]["artist"]))
        leaks = sum(artist in train for name in ("validation", "test") for artist in splits[name]["artist"])
        assert leaks > 0
        assert splits["test"].info.description.endswith(
            f"not grouped by artist, seed 42; {leaks} validation and test songs share an artist with train"
        )
        assert {name: len(split) for name, split in splits.items()} == {"train": 30, "validation": 4, "test": 8}

    def test_full_songs(self, root):
        splits = load_deam(root, split="full_songs")
        assert splits["test"]["song_id"][:] == [2001, 2002]
        assert "full_songs (test on the full songs, as MediaEval 2015)" in splits["test"].info.description

    def test_id_lists(self, root, tmp_path):
        write_split({"train": [2, 3], "validation": [13], "test": [22, 1501]}, tmp_path / "mine")
        with pytest.raises(
            SplitError, match=r"1 of 1 validation songs share an artist with train.*--group_by_artist false"
        ):
            load_deam(root, split=tmp_path / "mine")
        splits = load_deam(root, split=tmp_path / "mine", labels="distributed", group_by_artist=False)
        assert [splits[name]["song_id"][:] for name in SPLIT_NAMES] == [[2, 3], [13], [22, 1501]]
        assert splits["train"].info.description == (
            "DEAM; labels as distributed; split by the id lists in mine; "
            "2 validation and test songs share an artist with train"
        )

    def test_unknown_split(self, root):
        with pytest.raises(SplitError, match="split 'ramdom' is neither 'random', 'full_songs' nor a folder"):
            load_deam(root, split="ramdom")

    def test_needs_neither_torchcodec_nor_the_network(self, root):
        code = (
            "import socket, sys\n"
            "def refuse(*args): raise AssertionError('the network was used')\n"
            "socket.socket.connect = refuse\n"
            "from emotion_ft.data.collections.deam import load_deam\n"
            "load_deam(sys.argv[1])['train'][0]\n"
            "assert not {'torchcodec', 'torch'} & sys.modules.keys()\n"
        )
        subprocess.run([sys.executable, "-c", code, str(root)], check=True, cwd=Path(__file__).parents[3])

    @real
    def test_deam(self, tmp_path):
        (tmp_path / "annotations").symlink_to(DEAM)
        (tmp_path / "audio").mkdir()
        for song_id in read_static(DEAM).index:
            (tmp_path / "audio" / f"{song_id}.mp3").touch()
        start = time.process_time()
        splits = load_deam(tmp_path, split=DEAM / "splits" / "music2emo", group_by_artist=False)
        assert time.process_time() - start < 10
        assert [len(splits[name]) for name in SPLIT_NAMES] == [1261, 271, 270]
        assert "exchanged back in 744 rows" in splits["test"].info.description
        assert "share an artist with train" in splits["test"].info.description
