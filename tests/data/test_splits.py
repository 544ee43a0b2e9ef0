import logging
from pathlib import Path

import pytest

from emotion_ft.data.collections.annotations import read_artists, read_static
from emotion_ft.data.splits import (
    SPLIT_NAMES,
    SplitError,
    full_songs_split,
    id_list_split,
    k_folds,
    random_split,
    read_folds,
    read_split,
    shared_artists,
    write_split,
)

DEAM = Path(__file__).resolve().parents[3] / "shared" / "deam"
real = pytest.mark.skipif(not DEAM.is_dir(), reason="DEAM's annotations are not available")

SONGS = range(2, 302)
ARTISTS = {song_id: f"{'The ' if song_id % 2 else 'the  '}Artist {song_id % 40}" for song_id in range(2, 202)}
"""40 artists with five songs each, in two spellings; the artists of the last hundred songs are unknown."""


def assert_sound(splits, song_ids, groups=None):
    assert tuple(splits) == SPLIT_NAMES
    assert all(ids and ids == sorted(ids) and all(type(key) is int for key in ids) for ids in splits.values())
    assert sorted(key for ids in splits.values() for key in ids) == sorted(song_ids)
    if groups:
        artists = {
            name: {" ".join(groups[key].split()).casefold() for key in ids if key in groups}
            for name, ids in splits.items()
        }
        assert not artists["train"] & artists["test"]
        assert not artists["train"] & artists["validation"]
        assert not artists["validation"] & artists["test"]


class TestRandomSplit:
    @pytest.mark.parametrize("seed", range(5))
    def test_no_song_and_no_artist_on_two_sides(self, seed):
        splits = random_split(SONGS, ARTISTS, seed, validation_fraction=0.1, test_fraction=0.2)
        assert_sound(splits, SONGS, ARTISTS)
        assert len(splits["test"]) == pytest.approx(60, abs=25)
        assert len(splits["validation"]) == pytest.approx(30, abs=20)

    def test_letter_case_and_spaces_do_not_make_two_artists(self):
        groups = {song_id: "Jahzzar " if song_id < 10 else "JAHZZAR" for song_id in range(18)} | {18: "a", 19: "b"}
        for seed in range(10):
            sides = {name for name, ids in random_split(range(20), groups, seed).items() for key in ids if key < 18}
            assert len(sides) == 1

    def test_exact_shares_without_groups(self):
        splits = random_split(range(1000), None, 0, validation_fraction=0.1, test_fraction=0.2)
        assert {name: len(ids) for name, ids in splits.items()} == {"train": 700, "validation": 100, "test": 200}

    def test_seed_decides(self):
        assert random_split(SONGS, ARTISTS, 1) == random_split(reversed(SONGS), ARTISTS, 1)
        assert random_split(SONGS, ARTISTS, 1) != random_split(SONGS, ARTISTS, 2)

    def test_three_artists_are_enough_and_two_are_not(self):
        assert_sound(random_split(range(3)), range(3))
        with pytest.raises(SplitError, match="fewer artists than splits"):
            random_split(range(2))
        with pytest.raises(SplitError, match=r"1 artists \(200 songs\)"):
            random_split(range(200), dict.fromkeys(range(200), "One"))

    @pytest.mark.parametrize("fractions", [(0.5, 0.5), (0, 0.2), (0.1, 0), (-0.1, 0.2)])
    def test_fractions_that_leave_nothing(self, fractions):
        with pytest.raises(SplitError, match="fraction"):
            random_split(SONGS, None, 0, *fractions)

    @real
    def test_deam(self):
        song_ids, artists = read_static(DEAM).index, read_artists(DEAM)
        splits = random_split(song_ids, artists)
        assert_sound(splits, song_ids, artists)
        assert shared_artists(splits, artists) == []
        assert len(shared_artists(random_split(song_ids), artists)) > 100


class TestFullSongsSplit:
    def test_tests_on_full_songs(self):
        songs = [*SONGS, *range(2001, 2011)]
        splits = full_songs_split(songs, ARTISTS, 0, 0.1)
        assert_sound(splits, songs, ARTISTS)
        assert splits["test"] == list(range(2001, 2011))

    def test_leaves_out_excerpts_by_artists_of_full_songs(self):
        groups = {**ARTISTS, 2001: "THE ARTIST 3"}
        splits = full_songs_split([*SONGS, 2001], groups, 0, 0.1)
        left_out = [song_id for song_id in SONGS if song_id % 40 == 3 and song_id in ARTISTS]
        assert len(left_out) == 5
        assert_sound(splits, {*SONGS, 2001} - set(left_out), groups)

    def test_without_full_songs(self):
        with pytest.raises(SplitError, match="none of 300 songs is a full song"):
            full_songs_split(SONGS)

    @real
    def test_deam(self):
        splits = full_songs_split(read_static(DEAM).index, read_artists(DEAM))
        assert len(splits["test"]) == 58 and len(splits["train"]) + len(splits["validation"]) == 1744


class TestIdLists:
    def write(self, folder, **lists):
        for name in SPLIT_NAMES:
            (folder / f"{name}.txt").write_text(
                lists.get(name, {"train": "1\n2\n", "validation": "3\n"}.get(name, "4"))
            )

    def test_round_trip(self, tmp_path):
        splits = random_split(SONGS, ARTISTS)
        write_split(splits, tmp_path / "new")
        assert read_split(tmp_path / "new") == splits

    def test_missing_file(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "validation.txt").unlink()
        with pytest.raises(SplitError, match=r"validation\.txt is missing"):
            read_split(tmp_path)

    def test_bad_line(self, tmp_path):
        self.write(tmp_path, test="4\n\nfive\n")
        with pytest.raises(SplitError, match=r"test\.txt, line 3: expected one song id, got 'five'"):
            read_split(tmp_path)

    @pytest.mark.parametrize(
        ("lists", "places"),
        [
            ({"test": "4\n2\n"}, (r"test\.txt, line 2: song 2", r"train\.txt, line 2")),
            ({"train": "1\n7\n7\n"}, (r"train\.txt, line 3: song 7", r"train\.txt, line 2")),
        ],
    )
    def test_leaks_and_duplicates(self, tmp_path, lists, places):
        self.write(tmp_path, **lists)
        with pytest.raises(SplitError, match=".*".join(places)):
            read_split(tmp_path)

    def test_absent_and_unlisted_songs(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        self.write(tmp_path)
        assert id_list_split(tmp_path, [1, 3, 4, 5, 6]) == {"train": [1], "validation": [3], "test": [4]}
        absent, unlisted = caplog.records
        assert absent.levelno == logging.WARNING and "1 songs listed in" in absent.getMessage()
        assert absent.getMessage().endswith(": 2")
        assert unlisted.levelno == logging.INFO and unlisted.getMessage().endswith(": 5, 6")

    def test_empty_split(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(SplitError, match="validation is empty: none of the 1 songs"):
            id_list_split(tmp_path, [1, 2, 4])

    def test_shared_artists(self):
        splits = {"train": [1], "validation": [2, 3], "test": [4, 5]}
        assert shared_artists(splits, {1: "A", 2: "b", 4: "a "}) == [4]

    @real
    def test_music2emo(self):
        song_ids = read_static(DEAM).index
        splits = id_list_split(DEAM / "splits" / "music2emo", song_ids)
        assert [len(splits[name]) for name in SPLIT_NAMES] == [1261, 271, 270]
        assert_sound(splits, song_ids)
        without = id_list_split(DEAM / "splits" / "music2emo", song_ids.difference(splits["test"][:3]))
        assert [len(without[name]) for name in SPLIT_NAMES] == [1261, 271, 267]


class TestPublishedFolds:
    def write(self, folder, folds):
        for name, lists in folds.items():
            path = folder / name
            if isinstance(lists, str):
                path.write_text(lists)
            else:
                path.mkdir()
                for side, text in zip(SPLIT_NAMES, lists, strict=True):
                    (path / f"{side}.txt").write_text(text)

    def test_folders_from_0_or_1_in_either_spelling(self, tmp_path):
        first, second = ("1\n2", "3", "4"), ("3\n4", "2", "1")
        expected = [
            {"train": [1, 2], "validation": [3], "test": [4]},
            {"train": [3, 4], "validation": [2], "test": [1]},
        ]
        for number, names in enumerate([("fold-0", "fold-1"), ("fold_1", "fold_2"), ("fold0", "fold1")]):
            (folder := tmp_path / str(number)).mkdir()
            self.write(folder, dict(zip(names, (first, second), strict=True)))
            assert read_folds(folder, range(1, 5)) == (expected, False)

    def test_ten_folds_are_in_the_order_of_their_numbers(self, tmp_path):
        self.write(tmp_path, {f"fold_{number}.txt": f"{number}\n" for number in range(1, 12)})
        assert [fold["test"] for fold in read_folds(tmp_path, range(30))[0]] == [[number] for number in range(1, 12)]

    def test_test_lists_draw_validation_from_the_other_folds_by_artist(self, tmp_path):
        tests = [sorted(song_id for song_id in SONGS if song_id % 40 % 4 == number) for number in range(4)]
        self.write(tmp_path, {f"fold_{i}.txt": "\n".join(map(str, test)) for i, test in enumerate(tests)})
        folds, drawn = read_folds(tmp_path, range(2, 400), ARTISTS, seed=1, validation_fraction=0.2)
        assert drawn and [fold["test"] for fold in folds] == tests
        for fold in folds:
            assert_sound(fold, SONGS, ARTISTS)  # songs on none of the lists are left out
            groups = {ARTISTS.get(song_id, song_id) for song_id in fold["validation"]}
            assert len(groups) == 28  # of 140
        assert folds != read_folds(tmp_path, SONGS, ARTISTS, seed=2, validation_fraction=0.2)[0]

    def test_absent_and_untested_songs_are_reported_once(self, tmp_path, caplog):
        self.write(tmp_path, {"fold-0": ("1\n9\n5", "3", "4"), "fold-1": ("3\n9", "4", "1\n8")})
        folds, _ = read_folds(tmp_path, [1, 3, 4, 5])
        assert folds[0]["train"] == [1, 5] and folds[1] == {"train": [3], "validation": [4], "test": [1]}
        untested, absent = (record.getMessage() for record in caplog.records)
        assert "tested in no fold: 3, 5, 9" in untested and "2 songs listed in" in absent and absent.endswith(": 8, 9")

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            (
                {"fold-0": ("1", "2", "3"), "fold-1": ("1", "2", "3")},
                "song 3 is a test song in .*fold-0 and in .*fold-1",
            ),
            ({"fold_0.txt": "1\n2", "fold_1.txt": "2\n3"}, r"fold_1\.txt, line 1: song 2 is already in .*fold_0"),
            ({"fold-0": ("1", "1", "3"), "fold-1": ("1", "2", "4")}, r"validation\.txt, line 1: song 1 is already"),
            ({"fold-0": ("1", "2", "3"), "fold-2": ("1", "3", "2")}, "numbered from 0 or 1.*but has fold-0, fold-2"),
            ({"fold-0": ("1", "2", "3")}, "but has fold-0"),
            ({"folds.txt": "1"}, "but has none"),
            ({"fold-0": ("1", "2", "3"), "fold_1.txt": "1"}, "all as folders or all as lists"),
            ({"fold-0": ("1", "2", "3"), "fold_0": ("1", "3", "2")}, "but has fold-0, fold_0"),
            ({"fold-0": ("1", "2", "77"), "fold-1": ("1", "3", "2")}, "test is empty: none of the 1 songs"),
            ({"fold_0.txt": "1\nx", "fold_1.txt": "2"}, r"fold_0\.txt, line 2: expected one song id, got 'x'"),
        ],
    )
    def test_faults(self, tmp_path, folds, message):
        self.write(tmp_path, folds)
        with pytest.raises(SplitError, match=message):
            read_folds(tmp_path, range(1, 5))

    def test_a_fold_without_a_list(self, tmp_path):
        self.write(tmp_path, {"fold-0": ("1", "2", "3"), "fold-1": ("1", "3", "2")})
        (tmp_path / "fold-1" / "validation.txt").unlink()
        with pytest.raises(SplitError, match=r"fold-1/validation\.txt is missing"):
            read_folds(tmp_path, range(1, 5))


class TestKFolds:
    @pytest.mark.parametrize("folds", [2, 5])
    def test_every_song_is_tested_once_and_artists_stay_together(self, folds):
        found = k_folds(SONGS, ARTISTS, folds)
        assert len(found) == folds
        assert sorted(song_id for splits in found for song_id in splits["test"]) == sorted(SONGS)
        for splits in found:
            assert_sound(splits, SONGS, ARTISTS)
            assert shared_artists(splits, ARTISTS) == []

    def test_folds_have_equal_sizes_and_validation_the_requested_share(self):
        for splits in k_folds(range(1000), None, 5, validation_fraction=0.1):
            assert [len(splits[name]) for name in SPLIT_NAMES] == [700, 100, 200]

    def test_seed_decides(self):
        assert k_folds(SONGS, ARTISTS) == k_folds(SONGS, ARTISTS) != k_folds(SONGS, ARTISTS, seed=1)

    def test_fewer_artists_than_folds_are_refused_with_the_counts(self):
        four = {song_id: f"Artist {song_id % 4}" for song_id in range(100)}
        with pytest.raises(SplitError, match=r"4 artists \(100 songs\) cannot fill 5 folds.*--group_by_artist false"):
            k_folds(range(100), four, 5)
        assert len(k_folds(range(100), None, 5)) == 5
        with pytest.raises(SplitError, match="at least 2 folds, got 1"):
            k_folds(range(100), four, 1)

    @real
    def test_deam(self):
        song_ids, artists = read_static(DEAM).index, read_artists(DEAM)
        for splits in k_folds(song_ids, artists):
            assert 300 < len(splits["test"]) < 420 and shared_artists(splits, artists) == []
