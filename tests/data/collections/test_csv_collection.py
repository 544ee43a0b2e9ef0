import csv
import hashlib
import logging
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml

from emotion_ft.data.collections.annotations import read_static
from emotion_ft.data.collections.csv_collection import load_collection_file, load_csv, song_number
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.files import COLLECTION, AnnotationError
from emotion_ft.data.leaks import refuse_same_songs
from emotion_ft.data.songs import FEATURES, join
from emotion_ft.data.splits import SplitError

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared"
real_pmemo = pytest.mark.skipif(not (SHARED / "pmemo").is_dir(), reason="PMEmo's annotations are not available")
real_deam = pytest.mark.skipif(not (SHARED / "deam").is_dir(), reason="DEAM's annotations are not available")

HEADER = "song_id,valence,arousal"


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def message(function, *args, **kwargs):
    with pytest.raises(AnnotationError) as error:
        function(*args, **kwargs)
    return str(error.value)


@pytest.fixture
def load(tmp_path):
    """`load(*lines, **arguments)` -> the songs of `Some/labels.csv`, with audio for 1 to 30."""
    touch(tmp_path / "Some", *(f"audio/{number}.mp3" for number in range(1, 31)))

    def from_lines(*lines, **arguments):
        return load_csv(write(tmp_path / "Some" / "labels.csv", *lines), tmp_path / "Some" / "audio", **arguments)

    return from_lines


class TestRows:
    def test_bom_spaces_carriage_returns_and_blank_lines(self, tmp_path, caplog):
        lines = "\ufeffsong_id , valence_mean, valence_std,arousal_mean", "10, 2.5,1.5 , 3", "", ",,,", ' "9",5,,6.25'
        path = write(tmp_path / "Mine" / "tables" / "labels.csv", *lines, end="\r\n")
        touch(tmp_path / "Mine" / "audio", "a/10.mp3", "9.WAV")
        songs = load_csv(path, tmp_path / "Mine" / "audio")
        assert songs.features == FEATURES
        assert [key % COLLECTION for key in songs["song_id"]] == [9, 10]
        assert songs[1] == {
            **dict.fromkeys(FEATURES),
            "song_id": song_number("Mine", "10"),
            "source": "Mine",
            "audio": {"bytes": None, "path": str(tmp_path / "Mine" / "audio" / "a" / "10.mp3")},
            "valence": 2.5,
            "arousal": 3,
            "valence_std": 1.5,
            "raters_at_least": False,
            "labels": "distributed",
            "rendered": False,
            "synthetic": False,
        }
        assert songs[0]["valence_std"] is None and songs[0]["arousal"] == 6.25
        assert songs.info.description == "Mine; labels as distributed"
        assert not warnings(caplog)

    def test_source_of_files_in_different_places(self, tmp_path, monkeypatch):
        path = write(tmp_path / "here" / "labels.csv", HEADER, "1,5,5")
        touch(tmp_path / "audio", "1.mp3")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        songs = load_csv("../here/labels.csv", "../audio")
        assert songs["source"][:] == [tmp_path.name] and songs[0]["audio"]["path"] == str(tmp_path / "audio" / "1.mp3")
        songs = load_csv(path, tmp_path / "audio", source="Theirs")
        assert songs["source"][:] == ["Theirs"] and songs["song_id"][:] == [song_number("Theirs", "1")]

    @pytest.mark.parametrize(
        "header",
        [
            "id,valence,arousal,valence_std,arousal_std,Artist",
            "musicId,valence_mean,arousal_mean,valence_std,arousal_std,artist",
            "song_id,mean_valence,mean_arousal,std_valence,std_arousal,artist",
        ],
    )
    def test_names_that_headers_commonly_have(self, load, header):
        row = load(header, "3,2,4,1,1.5,Björk  G.")[0]
        assert [row[name] for name in ("valence", "arousal", "valence_std", "arousal_std")] == [2, 4, 1, 1.5]
        assert row["artist"] == "Björk G."

    def test_mapped_names(self, load):
        lines = "track,V,valence,A", "3,2,7,4"
        row = load(*lines, columns={"song_id": ["nr", "track"], "valence": "V", "arousal": "A"})[0]
        assert (row["song_id"] % COLLECTION, row["valence"], row["arousal"]) == (3, 2, 4)
        row = load(*lines, columns={"song_id": "track", "valence": ["valence", "V"], "arousal": "A"})[0]
        assert row["valence"] == 7

    def test_join_by_song_id(self, tmp_path, load):
        deviations = write(tmp_path / "std.csv", "musicId,valence_std,arousal_std,valence", "002,1,1.5,9", "5,2,2,9")
        artists = write(
            tmp_path / "names.csv", "title,id,artist", '"Yes, No",2,"Earth, Wind\n& Fire"', "x,1,", "y,9,Z"
        )
        labels = write(tmp_path / "labels.csv", HEADER, "2,3,4", "1,5,6", "3,7,8")
        songs = load_csv([labels, deviations, str(artists)], tmp_path / "Some")
        assert songs["valence"][:] == [5, 3, 7]
        assert songs["valence_std"][:] == [None, 1, None] and songs["arousal_std"][:] == [None, 1.5, None]
        assert songs["artist"][:] == [None, "Earth, Wind & Fire", None]


class TestFaultyFiles:
    def test_missing_column(self, load):
        text = message(load, "song_id,valence_mean,valence_std,arousal_maen", "1,5,1,5")
        assert "labels.csv, line 1: no column for arousal: looked for arousal or arousal_mean or mean_arousal" in text
        assert "(nearest: arousal_maen); found song_id, valence_mean, valence_std, arousal_maen" in text
        assert "no column for song_id: looked for song_id or musicId" in message(load, "nr,valence,arousal", "1,5,5")

    def test_mapped_column_that_no_file_has(self, tmp_path, load):
        names = write(tmp_path / "names.csv", "id,artists", "1,X")
        load(HEADER, "1,5,5")
        labels = tmp_path / "Some" / "labels.csv"
        text = message(load_csv, [labels, names], tmp_path, {"artist": "Artist"})
        assert f"{labels}, line 1: no column for artist: looked for Artist" in text
        assert f"{names}, line 1: no column for artist: looked for Artist (nearest: artists)" in text
        assert load_csv([labels, names], tmp_path, {"artist": ["singer", "artists"]})["artist"][:] == ["X"]

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (["1,5,5", "2,5,5", "01,6,6"], "line 4: song_id 1 is repeated, first given in {path}, line 2"),
            (["1,5,5", "2,5"], "line 3: 2 cells for 3 columns: '2,5'"),
            (["1,5,5", "2,5,5,5"], "line 3: 4 cells for 3 columns"),
            (["1,5,5", ",5,5"], "line 3: song_id is empty"),
            (['"1\n",5,5', "2,high,5"], "line 4: valence 'high' is not a number"),
            (["1,5,"], "line 2: arousal '' is not a number"),
            (["1,5,nan"], "line 2: arousal 'nan' is outside 1..9"),
            (["1,9.01,5"], "line 2: valence '9.01' is outside 1..9"),
            (["1,5,0.99"], "line 2: arousal '0.99' is outside 1..9"),
            (["1,5,inf"], "line 2: arousal 'inf' is outside 1..9"),
            (["1,5,5", '2,5,"5', "3,5,5"], "line 3: not a CSV file"),
            ([], "has no song"),
        ],
    )
    def test_row(self, tmp_path, load, lines, said):
        path = tmp_path / "Some" / "labels.csv"
        text = message(load, HEADER, *lines)
        assert str(path) in text and said.format(path=path) in text

    def test_five_faults_are_shown_the_rest_counted_and_a_hint_given(self, load):
        text = message(load, HEADER, *(f"{number},0.5,5" for number in range(1, 9)))
        assert (
            text.startswith("8 faults:") and text.count("valence '0.5' is outside 1..9") == 5 and "and 3 more" in text
        )
        assert "label_range, now 1..9" in text

    def test_label_missing_from_the_file_that_holds_it(self, tmp_path):
        first = write(tmp_path / "first.csv", "id,valence", "1,5", "2,5")
        second = write(tmp_path / "second.csv", "id,arousal", "1,5")
        text = message(load_csv, [first, second], tmp_path)
        assert f"{first}, line 3: id 2 has no arousal" in text

    def test_join_without_common_songs(self, tmp_path, load):
        names = write(tmp_path / "names.csv", "id,artist", "1.mp3,X")
        load(HEADER, "1,5,5")
        text = message(load_csv, [tmp_path / "Some" / "labels.csv", names], tmp_path)
        assert f"{names} has no songs in common with" in text and "labels.csv" in text

    def test_repeated_header(self, load):
        assert "line 1: two columns are called valence" in message(load, "id,valence,arousal,valence", "1,5,5,6")

    def test_other_encoding_and_missing_file(self, tmp_path, load):
        load(HEADER, "1,5,5")
        (tmp_path / "latin.csv").write_bytes("id,valence,arousal,artist\n1,5,5,Zoë\n".encode("latin-1"))
        assert "latin.csv, line 2: not UTF-8" in message(load_csv, tmp_path / "latin.csv", tmp_path)
        assert "nowhere.csv cannot be read: No such file" in message(load_csv, tmp_path / "nowhere.csv", tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"columns": {"valense": "V"}}, "'valense' (nearest: valence); valid are song_id, valence, arousal"),
            ({"columns": {"valence": None}}, "columns: valence must be one name or a list of names, got None"),
            ({"columns": ["valence"]}, "columns must map our names to the header's, got ['valence']"),
            ({"label_range": (9, 1)}, "label_range must be two numbers within ±1e+09, lowest and highest, got (9, 1)"),
            ({"label_range": "19"}, "label_range must be two numbers"),
            ({"label_range": [0, 1, 2]}, "label_range must be two numbers"),
            ({"deviation_range": [0, None]}, "deviation_range must be two numbers"),
            ({"ids": "dem"}, "ids must be 'deam' or left out, got 'dem'"),
        ],
    )
    def test_argument(self, load, arguments, said):
        assert said in message(load, HEADER, "1,5,5", **arguments)

    def test_no_csv(self, tmp_path):
        assert "csv must be one name or a list of names, got []" in message(load_csv, [], tmp_path)


class TestRanges:
    @pytest.mark.parametrize(
        ("low", "high", "said"),
        [
            (1, 9, ""),
            (0, 1, " (0..1 mapped to 1..9)"),
            (-1.0, 1, " (-1..1 mapped to 1..9)"),
            (0, 100, None),
            (1, 5, None),
        ],
    )
    def test_mapped_linearly(self, load, low, high, said):
        rng = np.random.default_rng(0)
        means, deviations = rng.uniform(low, high, (30, 2)), rng.uniform(0, (high - low) / 2, (30, 2))
        means[0], means[1] = (low, high), (high, low)
        table = np.hstack([np.arange(1, 31)[:, None], means, deviations])
        lines = [",".join([str(int(row[0])), *map(repr, row[1:].tolist())]) for row in table]
        header = "id,valence,arousal,valence_std,arousal_std"
        songs = load(header, *lines, label_range=(low, high))
        got = np.stack([songs[name] for name in header.split(",")[1:]], axis=1)
        np.testing.assert_allclose(got[:, :2], np.interp(means, (low, high), (1, 9)), rtol=1e-6)
        np.testing.assert_allclose(got[:, 2:], deviations / (high - low) * 8, rtol=1e-6)
        assert said is None or songs.info.description == f"Some; labels as distributed{said}"

    def test_deviations_on_another_scale(self, load):
        header = "id,valence,arousal,valence_std,arousal_std"
        row = load(header, "1,2,8.5,0.25,0.5", deviation_range=(0, 1))[0]
        assert [row[name] for name in header.split(",")[1:]] == [2, 8.5, 2, 4]
        row = load(header, "1,0.5,1,1,2", label_range=(0, 1), deviation_range=[1, 9])[0]
        assert [row[name] for name in header.split(",")[1:]] == [5, 9, 1, 2]

    def test_rounding_at_the_ends_is_forgiven(self, load):
        row = load(HEADER, "1,1.0000000000000002,-1e-17", label_range=(0, 1))[0]
        assert (row["valence"], row["arousal"]) == (9, 1)

    @pytest.mark.parametrize("scale", [(1, 9), (0, 1), (-1, 1)])
    def test_deviations_that_are_impossible(self, load, scale):
        half = (scale[1] - scale[0]) / 2
        header = "id,valence,arousal,valence_std"
        middle = sum(scale) / 2
        row = load(header, f"1,{middle},{middle},{1.049 * half}", label_range=scale)[0]
        assert row["valence_std"] == pytest.approx(4 * 1.049)
        for wrong in (1.051 * half, -0.01):
            text = message(load, header, f"1,{middle},{middle},{wrong}", label_range=scale)
            assert f"line 2: valence_std '{wrong}' is outside 0..{1.05 * half:g}" in text
            assert f"deviation_range, now {scale[0]}..{scale[1]}" in text

    @pytest.mark.parametrize(
        ("songs", "largest", "warned"), [(20, 0.49, True), (20, 0.51, False), (19, 0.49, False), (30, "", False)]
    )
    def test_deviations_that_look_small(self, load, caplog, songs, largest, warned):
        lines = [f"{number},{2 + number % 5},6,,{largest}" for number in range(1, songs + 1)]
        load("id,valence,arousal,valence_std,arousal_std", *lines)
        assert len(warnings(caplog)) == warned
        if warned:
            assert "0.49" in caplog.text and "smaller scale than label_range. deviation_range, now 1..9" in caplog.text

    def test_labels_that_look_small(self, load, caplog):
        likert = [f"{number},{1.5 + number % 4},{4.9 - number % 3}" for number in range(1, 31)]
        load(HEADER, *likert, label_range=(1, 5))
        assert not warnings(caplog)
        load(HEADER, *likert)
        (warning,) = warnings(caplog)
        assert "all labels are in 1.5..4.9, less than half of 1-9" in warning and "label_range, now 1..9" in warning


class TestAudio:
    def test_left_out_is_counted_and_listed(self, load, caplog):
        songs = load(HEADER, *(f"{number},5,5" for number in range(29, 43)))
        assert [key % COLLECTION for key in songs["song_id"]] == [29, 30]
        assert warnings(caplog) == [
            "left out 12 annotated songs without audio: 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, ..."
        ]

    def test_by_song_id(self, tmp_path):
        path = write(tmp_path / "labels.csv", HEADER, "7,5,5", "blues.0001,5,5", "rock/7,5,5", "Zoë,5,5")
        touch(
            tmp_path, "a/007.FLAC", "blues.0001.wav", "b/._7.mp3", "b/7.txt", unicodedata.normalize("NFD", "Zoë.ogg")
        )
        songs = load_csv(path, tmp_path, source="x")
        found = dict(zip(songs["song_id"], [Path(audio["path"]).name for audio in songs["audio"]], strict=True))
        assert set(found) == {song_number("x", text) for text in ("7", "blues.0001", "Zoë")}
        assert found[song_number("x", "7")] == "007.FLAC"

    def test_by_column(self, tmp_path):
        lines = "1,5,5,7.mp3", "2,5,5,deep/7.mp3", "3,5,5,other\\8.wav", "4,5,5,./lost/9.wav", "5,5,5,"
        path = write(tmp_path / "labels.csv", "id,valence,arousal,file", *lines)
        touch(tmp_path, "7.mp3", "deep/7.mp3", "x/other/8.wav", "y/9.wav", "1.mp3", "5.mp3")
        songs = load_csv(path, tmp_path, columns={"audio": "file"})
        assert [(key % COLLECTION) for key in songs["song_id"]] == [1, 2, 3, 4]
        found = [Path(audio["path"]).relative_to(tmp_path).as_posix() for audio in songs["audio"]]
        assert found == ["7.mp3", "deep/7.mp3", "x/other/8.wav", "y/9.wav"]

    def test_two_files_of_one_song(self, tmp_path, load):
        audio = tmp_path / "Some" / "audio"
        touch(audio, "zz/007.wav", "zz/8.mp3")
        text = message(load, HEADER, "7,5,5")
        assert f"two audio files for song 7: {audio / '7.mp3'} and {audio / 'zz' / '007.wav'}; remove one" in text
        text = message(load, "id,valence,arousal,file", "b,5,5,gone/8.mp3", columns={"audio": "file"})
        assert f"two audio files for song b: {audio / '8.mp3'} and {audio / 'zz' / '8.mp3'}; remove one" in text

    def test_two_songs_of_one_file(self, load):
        text = message(load, "id,valence,arousal,file", "a,5,5,8.mp3", "b,5,5,x/8.mp3", columns={"audio": "file"})
        assert re.search(r"songs a and b have the same audio file, \S+8\.mp3", text)

    def test_none(self, tmp_path, load):
        text = message(load, HEADER, "31,5,5", "32,5,5")
        assert "no audio for any of 2 annotated songs" in text and str(tmp_path / "Some" / "audio") in text
        assert "by song id, such as 31.mp3, with one of the suffixes .mp3 .wav" in text
        text = message(load, "id,valence,arousal,file", "1,5,5,a/b.mp3", columns={"audio": "file"})
        assert "no audio for any of 1" in text and "as in the column for audio, b.mp3" in text
        (tmp_path / "labels.csv").write_text(f"{HEADER}\n1,5,5\n")
        assert "nowhere is not a folder" in message(load_csv, tmp_path / "labels.csv", tmp_path / "nowhere")


class TestSongIds:
    def test_formula(self):
        def digest(text):
            return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)

        for source in ("PMEmo", "EmoMusic", "Café", ""):
            collection = 1 + digest(source) % 65535
            assert song_number(source, "12") == song_number(source, "0012") == collection * COLLECTION + 12
            assert song_number(source, str(COLLECTION - 1)) == collection * COLLECTION + COLLECTION - 1
            for text in ("track 12", "-3", "1.0", str(COLLECTION)):
                assert song_number(source, text) == collection * COLLECTION + digest(text) % COLLECTION
        assert song_number("PMEmo", "1") == 54820962566145

    def test_every_source_has_its_own_number_and_none_has_deams(self):
        numbers = [song_number(f"collection {index}", "5") // COLLECTION for index in range(2000)]
        assert min(numbers) >= 1 and max(numbers) < 1 << 16 and len(set(numbers)) > 1900

    def test_text_ids(self, tmp_path):
        path = write(tmp_path / "labels.csv", HEADER, "b side,5,5", "a side,6,6")
        touch(tmp_path, "a side.mp3", "b side.mp3")
        songs = load_csv(path, tmp_path, source="vinyl")
        expected = {song_number("vinyl", "a side"): 6, song_number("vinyl", "b side"): 5}
        assert dict(zip(songs["song_id"], songs["valence"], strict=True)) == expected
        assert songs["song_id"][:] == sorted(expected)

    def test_two_songs_with_the_same_id(self, load):
        clash = song_number("x", "b side") % COLLECTION
        text = message(load, HEADER, "b side,5,5", f"{clash},5,5")
        assert "labels.csv, line 3" in text and f"{clash} gets the same id as b side" in text

    def test_deams_ids(self, load):
        songs = load(HEADER, "010,5,5", "2,6,6", ids="deam", source="EmoMusic")
        assert songs["song_id"][:] == [2, 10] and set(songs["source"]) == {"EmoMusic"}
        text = message(load, HEADER, "2,5,5", "a,5,5", f"{COLLECTION},5,5", ids="deam")
        assert text.startswith("2 faults") and "line 3: song_id 'a' is not an integer, as DEAM's ids are" in text


class TestLeaksAndJoins:
    def emomusic(self, folder, songs):
        """A CSV like EmoMusic's, of DEAM songs, with valence and arousal exchanged."""
        rows = zip(songs["song_id"], songs["arousal"], songs["valence"], strict=True)
        lines = [f"{key},{valence:.4f},{arousal:.4f}" for key, valence, arousal in rows]
        touch(folder, *(f"clips/{key}.mp3" for key in songs["song_id"]))
        return write(folder / "static_annotations.csv", "song_id,mean_valence,mean_arousal", *lines)

    @pytest.mark.parametrize(("ids", "said"), [("deam", "are the same songs"), (None, "24 with valence and arou")])
    def test_deams_songs_under_another_name_are_refused(self, songs_root, tmp_path, ids, said):
        deam = load_songs(songs_root)
        emomusic = load_csv(self.emomusic(tmp_path, deam), tmp_path, source="EmoMusic", ids=ids)
        for one, other in ((emomusic, deam), (deam, emomusic)):
            with pytest.raises(SplitError, match=said):
                refuse_same_songs(one, other, "evaluated")
            with pytest.raises(SplitError, match=said):
                join([one, other])

    def test_other_songs_with_deams_numbers_are_not(self, songs_root, tmp_path):
        deam = load_songs(songs_root)
        rng = np.random.default_rng(1)
        lines = [
            f"{key},{v:.2f},{a:.2f}" for key, (v, a) in zip(deam["song_id"], rng.uniform(1, 9, (24, 2)), strict=True)
        ]
        touch(tmp_path, *(f"{key}.mp3" for key in deam["song_id"]))
        songs = load_csv(write(tmp_path / "labels.csv", HEADER, *lines), tmp_path, source="other")
        joint = join([deam, songs])
        assert joint["source"][:] == deam["source"][:] + ["other"] * 24 and len(set(joint["song_id"])) == 48
        assert joint[24] == songs[0] and joint.info.description.endswith(" + other; labels as distributed")

    def test_the_same_collection_twice(self, load):
        lines = [f"{number},{1 + number / 4},5" for number in range(1, 31)]
        songs = load(HEADER, *lines, source="A")
        with pytest.raises(SplitError, match="30 of 30 songs of A, joined with A, are the same songs"):
            join([songs, songs])
        with pytest.raises(SplitError, match="30 of 30 songs of B, joined with A"):
            join([songs, load(HEADER, *lines, source="B")])

    @real_deam
    @pytest.mark.parametrize(
        ("ids", "said"),
        [("deam", "744 of 744 .* same songs"), (None, "744 of 744 .*744 with valence and arousal exchanged")],
    )
    def test_emomusic(self, tmp_path, ids, said):
        (tmp_path / "DEAM").mkdir()
        (tmp_path / "DEAM" / "annotations").symlink_to(SHARED / "deam")
        touch(tmp_path / "DEAM", *(f"{key}.mp3" for key in read_static(SHARED / "deam").index))
        deam = load_songs(tmp_path / "DEAM", labels="distributed")
        block = deam.select(np.flatnonzero(np.array(deam["song_id"]) <= 1000))
        path = self.emomusic(tmp_path / "EmoMusic", block)
        emomusic = load_csv(path, tmp_path / "EmoMusic", ids=ids)
        assert len(emomusic) == 744 and emomusic["source"][0] == "EmoMusic"
        assert (emomusic["song_id"][:] == block["song_id"][:]) is (ids == "deam")
        with pytest.raises(SplitError, match=said):
            refuse_same_songs(emomusic, deam, "evaluated with a model of DEAM")


class TestCollectionFile:
    def describe(self, folder, **content):
        (folder / "mine.yaml").write_text(yaml.safe_dump(content))
        return folder / "mine.yaml"

    def test_every_argument_and_files_at_any_depth(self, tmp_path):
        data = tmp_path / "data" / "unzipped"
        write(data / "v1" / "means.csv", "nr,V,A,file", "1,0.5,1,b.mp3", "2,0,0.25,a.mp3")
        write(data / "v1" / "tables" / "stds.csv", "nr,valence_std", "2,1")
        touch(data, "audio/a.mp3", "audio/b.mp3")
        path = self.describe(
            tmp_path,
            root="data",
            csv=["means.csv", "elsewhere/stds.csv"],
            audio_dir=".",
            columns={"song_id": "nr", "valence": "V", "arousal": "A", "audio": "file"},
            label_range=[0, 1],
            deviation_range=[1, 9],
            source="Units",
            ids="deam",
        )
        songs = load_collection_file(path)
        assert songs["song_id"][:] == [1, 2] and songs["source"][:] == ["Units"] * 2
        assert songs["valence"][:] == [5, 1] and songs["arousal"][:] == [9, 3]
        assert songs["valence_std"][:] == [None, 1]
        assert [Path(audio["path"]).name for audio in songs["audio"]] == ["b.mp3", "a.mp3"]
        assert songs.info.description == "Units; labels as distributed (0..1 mapped to 1..9)"

    def test_root_and_the_files_own_folder(self, tmp_path, monkeypatch):
        for folder, valence in (("A", 2), ("B", 3), ("C", 4)):
            write(tmp_path / folder / "labels.csv", HEADER, f"1,{valence},5")
            touch(tmp_path / folder, "clips/1.mp3")
        own = self.describe(tmp_path / "A", csv="labels.csv", audio_dir="clips")
        assert load_collection_file(own)["valence"][:] == [2] and load_collection_file(own)["source"][:] == ["mine"]
        keyed = self.describe(tmp_path / "A", csv="labels.csv", audio_dir="clips", root="../B")
        monkeypatch.chdir(tmp_path)
        assert load_collection_file("A/mine.yaml")["valence"][:] == [3]
        songs = load_collection_file(keyed, root="C")
        assert songs["valence"][:] == [4] and songs[0]["audio"]["path"] == str(tmp_path / "C" / "clips" / "1.mp3")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"colums": {}},
                "unknown key: 'colums' (nearest: columns); valid are csv, audio_dir, columns, label_range",
            ),
            ({"csv": None}, "'csv' must be a path, got None"),
            ({"audio_dir": 5}, "'audio_dir' must be a path, got 5"),
            ({"csv": "lables.csv"}, "no lables.csv anywhere under {folder} (nearest: labels.csv)"),
            ({"csv": ["labels.csv", 5]}, "csv must be one name or a list of names"),
            ({"root": "nowhere"}, "{folder}/nowhere is not a folder"),
            ({"columns": {"valance": "V"}}, "'valance' (nearest: valence)"),
            ({"label_range": [0, 1]}, "labels.csv, line 2: valence '5' is outside 0..1"),
        ],
    )
    def test_faulty_content_names_the_file(self, tmp_path, changes, said):
        write(tmp_path / "labels.csv", HEADER, "1,5,5")
        touch(tmp_path, "1.mp3")
        good = {"csv": "labels.csv", "audio_dir": "."}
        assert len(load_collection_file(self.describe(tmp_path, **good))) == 1
        path = self.describe(tmp_path, **{**good, **changes})
        text = message(load_collection_file, path)
        assert text.startswith(f"{path}: ") and said.format(folder=tmp_path) in text

    def test_not_a_description(self, tmp_path):
        path = tmp_path / "mine.yaml"
        assert f"in {path}: No such file" in message(load_collection_file, path)
        path.write_text("csv: [labels.csv\n")
        assert f"{path} is not valid YAML" in message(load_collection_file, path)
        path.write_text("- labels.csv\n")
        assert f"{path}: expected lines 'key: value', got ['labels.csv']" in message(load_collection_file, path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"raters": 0}, "raters must be a number of people, got 0"),
        ({"raters": True}, "raters must be a number of people, got True"),
        ({"raters": 10, "raters_at_least": 10}, "raters_at_least must be true or false, got 10"),
    ],
)
def test_what_is_no_number_of_raters_is_refused(tmp_path, given, said):
    path = write(tmp_path / "labels.csv", "song_id,valence,arousal", "1,2,3")
    touch(tmp_path, "1.mp3")
    assert message(load_csv, path, tmp_path, **given) == said


@real_pmemo
class TestPMEmo:
    @pytest.fixture
    def pmemo(self, tmp_path):
        (tmp_path / "annotations").symlink_to(SHARED / "pmemo")
        touch(tmp_path, *(f"chorus/{number}.mp3" for number in range(1, 1001)))
        return tmp_path

    def test_as_in_recipes(self, pmemo, caplog):
        songs = load_collection_file(ROOT / "recipes" / "configs" / "pmemo.yaml", pmemo)
        assert len(songs) == 767 and len(set(songs["song_id"])) == 767 and all(songs["artist"])
        assert songs.info.description == "PMEmo; labels as distributed" and not warnings(caplog)
        row = songs[0]
        assert row["raters"] == 10 and row["raters_at_least"]
        assert row["song_id"] == song_number("PMEmo", "1") and row["artist"] == "2 Chainz"
        assert (row["valence"], row["arousal"]) == pytest.approx((5.6, 4.2))
        assert (row["valence_std"], row["arousal_std"]) == pytest.approx((8 * 0.160078105936, 8 * 0.15612495))

    def test_ranges_that_are_not_its_own(self, pmemo, caplog):
        path = pmemo / "annotations" / "static_annotations.csv"
        load_csv(path, pmemo)
        (warning,) = warnings(caplog)
        assert "0.32" in warning and "deviation_range" in warning
        assert message(load_csv, path, pmemo, label_range=(0, 1)).startswith("1534 faults:")

    def test_as_its_authors_distribute_it(self, pmemo, tmp_path_factory):
        """The commented lines of the YAML file, on files made of the others."""
        config = ROOT / "recipes" / "configs" / "pmemo.yaml"
        before, after = config.read_text().split("keys in place of those above:\n")
        keys = yaml.safe_load(before) | yaml.safe_load(re.sub("^# ", "", after, flags=re.M))
        root = tmp_path_factory.mktemp("PMEmo2019")
        with open(pmemo / "annotations" / "static_annotations.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for name, kind, scale in (("", "mean", lambda x: (x - 1) / 8), ("_std", "std", lambda x: x)):
            cells = [
                [row["song_id"], *(repr(scale(float(row[f"{a}_{kind}"]))) for a in ("arousal", "valence"))]
                for row in rows
            ]
            header = f"musicId,Arousal({kind}),Valence({kind})"
            write(root / f"annotations/static_annotations{name}.csv", header, *map(",".join, cells))
        (root / "metadata.csv").symlink_to(SHARED / "pmemo" / "metadata.csv")
        (root / "chorus").symlink_to(pmemo / "chorus")
        path = root / "pmemo.yaml"
        path.write_text(yaml.safe_dump(keys))
        songs, expected = load_collection_file(path, root), load_collection_file(config, pmemo)
        assert songs.info.description == "PMEmo; labels as distributed (0..1 mapped to 1..9)"
        for name in ("song_id", "valence", "arousal", "valence_std", "arousal_std"):
            np.testing.assert_allclose(songs[name], expected[name], rtol=1e-6)
        assert songs["artist"][:] == expected["artist"][:]
