import json

import numpy as np
import pandas as pd
import pytest

from emotion_ft.config.parser import parse_config
from emotion_ft.data.copies import Copies
from emotion_ft.data.songs import songs_dataset
from emotion_ft.data.splits import SplitError, write_split
from emotion_ft.errors import UsageError
from emotion_ft.studies.cross_validation import (
    draw_folds,
    fold_songs,
    pool,
    pooled_results,
)


def config(*flags):
    return parse_config(["--precision", "fp32", *flags])


def songs(artists):
    count = len(artists)
    labels = {"valence": [5.0] * count, "arousal": [5.0] * count, "artist": artists}
    columns = {"song_id": range(count), "source": ["X"] * count, "audio": [f"{i}.mp3" for i in range(count)], **labels}
    return songs_dataset(columns, "X")


class TestDrawing:
    ARTISTS = tuple(f"Artist {i % 20}" if i < 60 else None for i in range(100))

    def test_the_protocol_says_how(self):
        splits, protocol = draw_folds(songs(self.ARTISTS), config(), 4)
        assert len(splits) == 4
        assert protocol.startswith(
            "artist-grouped 4-fold cross-validation, 0.15 validation, grouped by artist (known for"
        )
        assert "60 of 100 songs), seed 42" in protocol
        splits, protocol = draw_folds(songs(self.ARTISTS), config("--group_by_artist", "false", "--seed", "7"), 4)
        assert protocol == "song-level 4-fold cross-validation, 0.15 validation, not grouped by artist, seed 7"
        artists = [{self.ARTISTS[i] for i in split["test"]} - {None} for split in splits]
        assert artists[0] & artists[1]  # song by song, artists do cross

    def test_fewer_artists_than_folds(self):
        with pytest.raises(SplitError, match=r"3 artists \(30 songs\) cannot fill 5 folds"):
            draw_folds(songs([f"Artist {i % 3}" for i in range(30)]), config(), 5)

    def test_a_split_of_the_users_own_is_refused(self):
        with pytest.raises(UsageError, match="takes them from a folder: leave out --split full_songs"):
            draw_folds(songs(self.ARTISTS), config("--split", "full_songs"), 4)
        with pytest.raises(UsageError, match="leave out push_to_hub"):
            draw_folds(songs(self.ARTISTS), config("--push_to_hub"), 4)


class TestPublishedFolds:
    ARTISTS = TestDrawing.ARTISTS

    def folds(self, folder):
        splits, _ = draw_folds(songs(self.ARTISTS), config(), 4)
        for number, fold in enumerate(splits):
            write_split(fold, folder / f"fold-{number}" / "splits")
        return splits

    def test_the_folds_of_another_cross_validation(self, tmp_path):
        splits = self.folds(tmp_path / "published")
        again, protocol = draw_folds(songs(self.ARTISTS), config("--split", str(tmp_path / "published")))
        assert again == splits and protocol == "4-fold cross-validation by the id lists in published"
        with pytest.raises(UsageError, match="has 4 folds, not 5: leave out --folds"):
            draw_folds(songs(self.ARTISTS), config("--split", str(tmp_path / "published")), 5)

    def test_lists_of_test_songs(self, tmp_path):
        splits = self.folds(tmp_path / "published")
        for number, fold in enumerate(splits, start=1):
            (tmp_path / f"fold_{number}.txt").write_text("\n".join(map(str, fold["test"])))
        found, protocol = draw_folds(songs(self.ARTISTS), config("--split", str(tmp_path), "--seed", "3"))
        assert [fold["test"] for fold in found] == [fold["test"] for fold in splits]
        assert protocol.endswith(f"by the id lists in {tmp_path.name}, 0.15 validation, seed 3")

    def test_an_artist_on_two_sides(self, tmp_path):
        self.folds(tmp_path)
        lists = tmp_path / "fold-2" / "splits"
        moved = (lists / "train.txt").read_text().splitlines()
        song = next(line for line in moved if int(line) < 60)
        (lists / "train.txt").write_text("\n".join(line for line in moved if line != song))
        (lists / "validation.txt").write_text((lists / "validation.txt").read_text() + song)
        with pytest.raises(SplitError, match="validation songs share an artist with train"):
            draw_folds(songs(self.ARTISTS), config("--split", str(tmp_path)))
        draw_folds(songs(self.ARTISTS), config("--split", str(tmp_path), "--group_by_artist", "false"))

    def test_shared_artists_are_counted_where_they_are_accepted(self, tmp_path):
        for number in range(5):
            (tmp_path / f"fold_{number}.txt").write_text("\n".join(map(str, range(number, 100, 5))))
        flags = ("--split", str(tmp_path), "--group_by_artist", "false")
        _, protocol = draw_folds(songs([f"Artist {i // 10}" for i in range(100)]), config(*flags))
        assert protocol.endswith("; 100 test songs share an artist with their fold's train")


def test_pooled_over_songs_and_not_over_folds(tmp_path):
    rng = np.random.default_rng(0)
    for fold, ids in enumerate(([4, 1, 9], [2])):
        folder = tmp_path / f"fold-{fold}"
        folder.mkdir()
        table = pd.DataFrame({"song_id": ids, "source": "X", "audio": "a", "artist": "1", "labels": "repaired"})
        table.assign(valence=rng.random(len(ids))).to_csv(folder / "predictions.csv", index=False)
        results = {"test_songs": len(ids), "synthetic_windows": 0, "bad_files": 1, "train_runtime": 2.0, "epochs": 3}
        results |= {"interval_level": 0.9, "interval_valence": 1.0 + fold, "interval_arousal": 1.0}
        results |= {"test_valence_coverage": 1.0 - fold, "test_arousal_coverage": 0.5}
        (folder / "all_results.json").write_text(json.dumps(results))
    table = pool(tmp_path, 2)
    assert table["song_id"].tolist() == [1, 2, 4, 9] and table["fold"].tolist() == [0, 1, 0, 0]
    assert set(table["artist"]) == {"1"}
    pooled = pooled_results(tmp_path, 2)
    assert pooled["test_songs"] == 4 and pooled["test_valence_coverage"] == 0.75
    assert pooled["interval_valence"] == 1.5 and pooled["train_runtime"] == 4.0
    (tmp_path / "fold-1" / "predictions.csv").write_text((tmp_path / "fold-0" / "predictions.csv").read_text())
    with pytest.raises(UsageError, match="3 songs are test songs of two folds"):
        pool(tmp_path, 2)


def test_a_fold_needs_two_songs_on_each_side():
    whole = songs(["A"] * 10)
    sides = {"train": [0, 1, 2, 3], "validation": [4, 5], "test": [6, 77, 78]}
    with pytest.raises(SplitError, match="fold 3 has 1 test songs, but scores need two"):
        fold_songs(whole, sides, "folds", 3)
    parts, left_out = fold_songs(whole, {**sides, "test": [6, 7, 78]}, "folds", 3)
    assert (
        left_out == []
        and parts["test"]["song_id"][:] == [6, 7]
        and parts["test"].info.description == "X; split folds, fold 3"
    )
    parts, left_out = fold_songs(whole, {**sides, "test": [6, 7]}, "folds", 3, [Copies(0, 7, 0.9), Copies(1, 2, 0.9)])
    assert parts["train"]["song_id"][:] == [1, 2, 3] and parts["test"]["song_id"][:] == [6, 7]
    assert [(file.song_id, file.reason) for file in left_out] == [(0, "the same recording as 7, a test song")]
    with pytest.raises(SplitError, match="fold 3 has 1 validation songs"):
        fold_songs(whole, {**sides, "test": [6, 7]}, "folds", 3, [Copies(4, 7, 0.9)])
