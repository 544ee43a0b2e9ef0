import logging
import random
from pathlib import Path

import pytest

from emotion_ft.data.artists import group_names, group_songs, is_known, joined_names, songs_by, warn_of_large_group
from emotion_ft.data.collections.annotations import read_artists, read_static
from emotion_ft.data.splits import full_songs_split, k_folds, random_split, shared_artists

DEAM = Path(__file__).resolve().parents[3] / "shared" / "deam"
real = pytest.mark.skipif(not DEAM.is_dir(), reason="DEAM's annotations are not available")


def together(*names):
    """Whether names are all in one group."""
    groups = group_names(names)
    return len({groups[name] for name in names}) == 1


class TestNames:
    @pytest.mark.parametrize(
        "names",
        [
            ("The Beatles", "beatles", "BEATLES ", "Beatles, The"),
            ("Beyoncé", "BEYONCE", "Beyonce\u0301"),
            ("AC/DC", "ACDC", "AC-DC"),
            ("Blink 182", "Blink-182"),
            ("Ｋｒａｕｓ", "Kraus"),  # full-width letters, which NFKC makes ordinary
            ("Sigur Rós", "sigur\u00a0ros"),
            ("Straße", "STRASSE"),
            ("!!!", " !!! "),
        ],
    )
    def test_one_name_in_several_spellings(self, names):
        assert together(*names)

    @pytest.mark.parametrize("between", ["feat.", "Ft.", "featuring", "with", "vs.", "VS", "x", "&", "and", "And"])
    def test_a_member_of_a_pair(self, between):
        for alone in ("Steve Gunn", "Black Twig Pickers"):
            assert together(f"Black Twig Pickers {between} Steve Gunn", alone)

    @pytest.mark.parametrize(
        "name", ["{}, {}", "{}/{}", "{} ({})", "{} (feat. {})", "{}+ {}", "{}; {}", "The {} [with {}]"]
    )
    def test_other_ways_to_write_a_pair(self, name):
        assert together(name.format("Ann Bee", "Cee Dee"), "ann bee") and together(name.format("Ann", "Dee"), "dee")

    def test_through_others(self):
        assert together("A1 & B1", "B1 vs. C1", "C1, D1", "D1")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Kevin MacLeod", "Kevin MacLeary"),
            ("Malcolm X", "Malcolm"),  # no connector at the end,
            ("X Ambassadors", "Ambassadors"),  # or at the beginning
            ("Sandy", "S"),  # nor inside a word
            ("Ann & Friends", "Bob and Friends"),
            ("Mr. & Mrs. Smith", "Mr. & Mrs. Jones"),
            ("K & Ann", "K & Bob"),  # one letter is not a name to go by
            ("Jean-Luc Ponty", "Jean-Michel Jarre"),
            ("!!!", "???!"),
            ("かみ", "がみ"),
        ],
    )
    def test_different_people(self, one, other):
        assert not together(one, other)

    def test_titles_after_a_dash(self):
        assert together("Kevin MacLeod", "Kevin MacLeod-Night on the Docks")
        assert together("Advent Chamber Orchestra-Handel", "Advent Chamber Orchestra - Dvorak")
        assert together("YACHT", "YACHT-Shangri") and not together("YACHT-Shangri", "Yacht-Utopia")

    @pytest.mark.parametrize(
        "name", ["Simon & Garfunkel", "Earth, Wind & Fire", "Iron and Wine", "Tyler, The Creator"]
    )
    def test_a_band_with_a_connector_in_its_name_is_one_artist(self, name):
        assert together(name, name.upper()) and len(joined_names([name, "Somebody Else"])) == 0

    @pytest.mark.parametrize("order", range(5))
    def test_the_order_of_names_does_not_matter(self, order):
        names = ["B & A1", "A1", "C3 x B2", "B2", "Dee", "none", "C3", "The Dee"]
        shuffled = random.Random(order).sample(names, len(names))
        assert group_names(shuffled) == group_names(names)
        assert joined_names(shuffled) == [["A1", "B & A1"], ["B2", "C3", "C3 x B2"], ["Dee", "The Dee"]]


class TestNobody:
    NAMES = (
        "nan",
        "None",
        "NULL",
        "n/a",
        "<NA>",
        "NA",
        "N.A.",
        "unknown",
        "Unknown Artist",
        "-",
        "—",
        "?",
        "...",
        "",
        " ",
    )
    NAMES += ("Various Artists", "VA", "V.A.", "various", "[unknown]")

    @pytest.mark.parametrize("name", [*NAMES, None, float("nan")])
    def test_is_no_artist(self, name):
        assert not is_known(name)
        assert group_songs([7, 8, 9], {7: name, 8: name, 9: "Ann"}) == ["song 7", "song 8", "artist ann"]

    def test_joins_nobody(self):
        assert not together("Various Artists feat. Ann", "Various Artists & Bob")
        assert together("Various Artists feat. Ann", "Ann")

    @pytest.mark.parametrize(
        "name", ["311", "Nan Goldin", "Unknown Mortal Orchestra", "The Unknowns", "!!!", "The The"]
    )
    def test_names_that_are_names(self, name):
        assert is_known(name)


class TestSongs:
    def test_songs_by_known_artists(self):
        artists = {3: "Bee & Ann", 1: "ANN", 2: "Dee", 4: "none"}
        assert songs_by(artists, ["The Ann", "none"]) == [1, 3]
        assert songs_by(artists, ["Cee", "Cee x Dee"]) == [2]
        assert songs_by(artists, []) == songs_by({}, ["Ann"]) == []

    def test_splits_keep_members_together(self):
        names = {1: "Ann", 2: "Ann feat. Bob", 3: "Bob", 2001: "bob & the Bees"}
        artists = {**names, **{key: f"Somebody {key}" for key in range(4, 30)}}
        for seed in range(20):
            for splits in (random_split(artists, artists, seed), *k_folds(artists, artists, 4, seed)):
                assert len({side for side, ids in splits.items() for key in ids if key in names}) == 1
        assert not {1, 2, 3} & {key for ids in full_songs_split(artists, artists).values() for key in ids}

    def test_a_member_on_another_side_is_found(self):
        splits = {"train": [1], "validation": [2], "test": [3]}
        assert shared_artists(splits, {1: "Ann", 2: "Cee", 3: "Bob vs. Ann"}) == [3]
        # Bob is in both, but the songs of the two others are not related without the one that connects them.
        assert shared_artists(splits, {1: "Ann", 3: "Bob", 4: "Ann & Bob"}) == []

    def test_a_group_with_over_a_fifth_of_the_songs_is_named(self, caplog):
        artists = {key: f"Somebody {key}" for key in range(8)} | {8: "Ann", 9: "Ann & Bob"}
        warn_of_large_group(artists, 10)
        assert not caplog.records
        warn_of_large_group(artists | {7: "bob"}, 10)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and "3 of 10 songs" in record.getMessage()
        assert "Ann; Ann & Bob; bob" in record.getMessage()


@real
def test_deam():
    artists, song_ids = read_artists(DEAM), read_static(DEAM).index
    groups = group_names(artists.values())
    assert len(set(artists.values())) == 411 and len(set(groups.values())) == 386
    assert ["Black Twig Pickers", "Black Twig Pickers and Steve Gunn", "Steve Gunn"] in joined_names(artists.values())
    for seed in range(5):
        splits = random_split(song_ids, artists, seed)
        side = {key: name for name, ids in splits.items() for key in ids}
        assert len({side[key] for key, name in artists.items() if "Gunn" in name or "Twig" in name}) == 1
