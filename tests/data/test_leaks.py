import numpy as np
import pytest

from emotion_ft.data.files import COLLECTION
from emotion_ft.data.leaks import refuse_crossing, refuse_leak, refuse_leaks, refuse_same_songs
from emotion_ft.data.songs import join, songs_dataset
from emotion_ft.data.splits import SplitError

SPLITS = {"train": [1, 2, 3], "validation": [4], "test": [5, 6]}


def songs(numbers, source="Ours", labels=None, collection=0, **columns):
    labels = np.random.default_rng(0).uniform(1, 9, (len(numbers), 2)) if labels is None else labels
    ids = [collection * COLLECTION + number for number in numbers]
    audio = [f"{number}.mp3" for number in numbers]
    labels = {"valence": labels[:, 0], "arousal": labels[:, 1]}
    return songs_dataset({"song_id": ids, "source": [source] * len(ids), "audio": audio, **labels, **columns}, source)


class TestCrossing:
    def test_nothing_crosses(self):
        refuse_crossing(SPLITS, {1: "A", 2: "a", 4: "B", 5: "C", 6: "C"})

    def test_songs(self):
        with pytest.raises(SplitError, match="1 songs are in validation and in test: 4"):
            refuse_crossing({**SPLITS, "test": [4, 5]})

    def test_artists_in_train_and_held_out(self):
        with pytest.raises(SplitError, match=r"1 of 2 test songs share an artist with train or validation: 5"):
            refuse_crossing(SPLITS, {1: "The  Band", 5: "the band"})

    def test_artists_in_validation_and_test(self):
        with pytest.raises(SplitError, match=r"1 of 2 test songs share an artist with train or validation: 6"):
            refuse_crossing(SPLITS, {4: "A", 6: "A"})


class TestLastCheck:
    def sides(self, **changes):
        columns = {"artist": ["A", "B", "C", "D", "E", "F"], "synthetic": [False] * 6} | changes
        whole = songs([1, 2, 3, 4, 5, 6], **columns)
        return {name: whole.select([i - 1 for i in ids]) for name, ids in SPLITS.items()}

    def test_a_sound_split(self):
        refuse_leaks(self.sides(), group_by_artist=True)

    @pytest.mark.parametrize("row", [3, 5])
    def test_a_synthetic_song_in_evaluation(self, row):
        with pytest.raises(SplitError, match=r"1 of [12] (validation|test) songs are synthetic"):
            refuse_leaks(self.sides(synthetic=[i == row for i in range(6)]), group_by_artist=True)

    def test_a_synthetic_song_in_training(self):
        refuse_leaks(self.sides(synthetic=[True] + [False] * 5), group_by_artist=True)

    def test_an_artist_unless_not_grouped(self):
        sides = self.sides(artist=["A", "B", "C", "D", "A", None])
        with pytest.raises(SplitError, match="share an artist"):
            refuse_leaks(sides, group_by_artist=True)
        refuse_leaks(sides, group_by_artist=False)


class TestTrainedOn:
    def test_only_on_these_training_songs(self):
        refuse_leak([1, 3], SPLITS, "it")
        with pytest.raises(SplitError, match="it was trained on 1 of the 2 test songs: 6"):
            refuse_leak([1, 6], SPLITS, "it")
        with pytest.raises(SplitError, match="1 songs that are not among the 3 training songs here: 9"):
            refuse_leak([1, 9], SPLITS, "it")


class TestSameSongs:
    LABELS = np.random.default_rng(1).uniform(1, 9, (40, 2))

    def test_the_same_ids(self):
        with pytest.raises(SplitError, match="2 of 3 songs of A, tested, are the same songs: 2, 3"):
            refuse_same_songs(songs([1, 2, 3], "A"), songs([2, 3, 4], "B"), "tested")

    @pytest.mark.parametrize("exchanged", [False, True])
    def test_the_same_numbers_and_labels(self, exchanged):
        labels = self.LABELS[:, ::-1] if exchanged else self.LABELS
        theirs = songs(range(40), "EmoMusic", labels + 0.01, collection=5)
        with pytest.raises(SplitError, match=rf"40 of 40 songs of EmoMusic.*songs of DEAM.*\({40 * exchanged} with"):
            refuse_same_songs(theirs, songs(range(40), "DEAM", self.LABELS), "tested")

    def test_labels_under_another_treatment_count(self):
        dynamic = np.random.default_rng(2).uniform(1, 9, (40, 2))
        other = {"other_valence": self.LABELS[:, 0], "other_arousal": self.LABELS[:, 1]}
        with pytest.raises(SplitError, match="are songs of DEAM"):
            refuse_same_songs(
                songs(range(40), "EmoMusic", self.LABELS[:, ::-1], 5),
                songs(range(40), "DEAM", dynamic, **other),
                "tested",
            )

    def test_the_same_numbers_alone_are_chance(self):
        refuse_same_songs(songs(range(40), "PMEmo", collection=5), songs(range(40), "DEAM", self.LABELS), "tested")

    def test_a_few_equal_labels_are_chance(self):
        labels = self.LABELS.copy()
        labels[15:] = np.random.default_rng(2).uniform(1, 9, (25, 2))
        refuse_same_songs(songs(range(40), "A", labels, 5), songs(range(40), "B", self.LABELS), "tested")

    def test_join_refuses_them_and_keeps_the_source(self):
        first, second = songs(range(40), "A", self.LABELS), songs(range(40), "B", collection=5)
        joint = join([first, second])
        assert joint["source"][:] == ["A"] * 40 + ["B"] * 40 and joint.info.description == "A + B"
        again = songs(range(40), "C", self.LABELS, collection=6)
        for collections in ([first, second, again], [join([second, first]), again]):
            with pytest.raises(SplitError, match=r"40 songs of C, joined with .*, are songs of A"):
                join(collections)
