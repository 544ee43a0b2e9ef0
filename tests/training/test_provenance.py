import pandas as pd
import pytest
from datasets import DatasetDict

from emotion_ft.data.songs import songs_dataset
from emotion_ft.data.splits import SplitError, write_split
from emotion_ft.errors import UsageError
from emotion_ft.scoring.scores import songs_table
from emotion_ft.training.provenance import refuse_another_split, refuse_seen, same_songs, seen_songs

SPLITS = {"train": [0, 1, 2, 3], "validation": [4, 5], "test": [6, 7]}


def sides(splits, labels="repaired", **artists):
    """Ten songs, each by an artist of its own unless told."""
    columns = {
        "song_id": range(10),
        "source": ["X"] * 10,
        "audio": [f"{i}.mp3" for i in range(10)],
        "artist": [artists.get(f"of_{i}", f"Artist {i}") for i in range(10)],
        "labels": [labels] * 10,
    }
    columns |= {name: [1 + 0.7 * i for i in range(10)][::step] for name, step in (("valence", 1), ("arousal", -1))}
    songs = songs_dataset(columns, "X")
    return DatasetDict({name: songs.select(ids) for name, ids in splits.items()})


@pytest.fixture
def run(tmp_path):
    """The folder of a run: who was on which side."""
    write_split(SPLITS, tmp_path / "splits")
    tables = [songs_table(side).assign(split=name) for name, side in sides(SPLITS).items()]
    pd.concat(tables).to_csv(tmp_path / "songs.csv", index=False)
    (tmp_path / "checkpoint-5").mkdir()
    return tmp_path


def test_validation_songs_are_seen_and_test_songs_are_not(run, tmp_path):
    assert seen_songs(run)["song_id"].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="does not say which songs it was trained on"):
        seen_songs(tmp_path / "elsewhere")


class TestStartingFrom:
    @pytest.mark.parametrize("place", [".", "checkpoint-5"])
    @pytest.mark.parametrize(
        ("held_out", "name"),
        [({"test": [3, 6]}, "test"), ({"validation": [3, 9]}, "validation"), ({"test": [4, 6]}, "test")],
    )
    def test_weights_that_saw_a_held_out_song(self, run, place, held_out, name):
        splits = {"train": [0, 1, 2], "validation": [8, 9], "test": [6, 7]} | held_out
        with pytest.raises(SplitError, match=rf"trained or selected on 1 of the 2 {name} songs.*--split .*splits"):
            refuse_seen(run / place, sides(splits), group_by_artist=True)

    def test_weights_that_saw_the_artist(self, run):
        ours = sides({"train": [0], "validation": [8], "test": [6, 9]}, of_9="artist  2")
        with pytest.raises(SplitError, match="by the artists of 1 of the 2 test songs: 9"):
            refuse_seen(run, ours, group_by_artist=True)
        refuse_seen(run, ours, group_by_artist=False)

    def test_its_own_split_and_weights_of_others(self, run, tmp_path):
        refuse_seen(run, sides(SPLITS), group_by_artist=True)
        refuse_seen(tmp_path / "elsewhere" / "model", sides(SPLITS), group_by_artist=True)
        refuse_seen("MIT/ast-finetuned-audioset-10-10-0.4593", sides(SPLITS), group_by_artist=True)


class TestGoingOn:
    def test_with_the_same_songs(self, run):
        refuse_another_split(run, sides(SPLITS))

    def test_with_another_split(self, run):
        others = SPLITS | {"train": [0, 1, 2, 6], "test": [3, 7]}
        with pytest.raises(SplitError, match="train differs in 2 songs, 3, 6; test differs in 2 songs, 3, 6"):
            refuse_another_split(run, sides(others))

    def test_with_other_labels(self, run):
        with pytest.raises(SplitError, match="its labels are repaired"):
            refuse_another_split(run, sides(SPLITS, labels="distributed"))


def test_another_collection_counts_artists_and_refuses_songs(run):
    columns = {"song_id": [2**40, 2**40 + 1], "source": ["Y"] * 2, "audio": ["a", "b"], "artist": ["ARTIST 5", "New"]}
    others = songs_dataset({**columns, "valence": [5.0] * 2, "arousal": [5.0] * 2}, "Y")
    assert same_songs(others, run) == 1
    with pytest.raises(SplitError, match="4 of 4 songs of X"):
        same_songs(sides(SPLITS)["train"], run)
