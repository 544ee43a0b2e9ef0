import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emotion_ft.data.collections.annotations import Curve, read_artists, read_dynamic, read_static
from emotion_ft.data.collections.exchange import repair
from emotion_ft.data.files import AnnotationError, files_under, find_file

DEAM = Path(__file__).resolve().parents[4] / "shared" / "deam"
real = pytest.mark.skipif(not DEAM.is_dir(), reason="DEAM's annotations are not available")

EXCERPTS = "static_annotations_averaged_songs_1_2000.csv"
FULL = "static_annotations_averaged_songs_2000_2058.csv"
HEADER = "song_id, valence_mean, valence_std, arousal_mean, arousal_std\r\n"


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def wide(*rows, start=15000):
    columns = ",".join(f"sample_{start + 500 * i}ms" for i in range(4))
    return "".join(f"{line}\r\n" for line in (f"song_id,{columns}", *rows))


def message(function, root):
    with pytest.raises(AnnotationError) as error:
        function(root)
    return str(error.value)


def correlations(static, dynamic):
    means = pd.DataFrame({key: [c.valence.mean(), c.arousal.mean()] for key, c in dynamic.items()}).T
    return static["valence"].corr(means[0]), static["arousal"].corr(means[1])


class TestFindFile:
    def test_at_any_depth_but_not_among_hidden_copies(self, tmp_path):
        write(tmp_path, "__MACOSX/a/valence.csv", "x")
        write(tmp_path, "a/._valence.csv", "x")
        write(tmp_path, "a/arousal.csv", "x")
        assert find_file(tmp_path, "valence.csv") is None
        path = write(tmp_path, "a/b c/valence.csv", "y")
        assert find_file(tmp_path, "valence.csv") == path

    def test_follows_links_even_circular_ones(self, tmp_path):
        write(tmp_path, "elsewhere/valence.csv", "x")
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "root")
        assert list(files_under(tmp_path / "root")) == [tmp_path / "root" / "linked" / "valence.csv"]

    def test_identical_copies_are_fine_and_different_ones_are_not(self, tmp_path):
        first = write(tmp_path, "a/valence.csv", "x")
        second = write(tmp_path, "b/valence.csv", "x")
        assert find_file(tmp_path, "valence.csv") == first
        second.write_text("y")
        text = message(lambda root: find_file(root, "valence.csv"), tmp_path)
        assert str(first) in text and str(second) in text

    def test_missing_and_empty_root(self, tmp_path):
        assert "not a folder" in message(lambda root: find_file(root, "x"), tmp_path / "nowhere")
        assert "contains no files" in message(lambda root: find_file(root, "x"), tmp_path)


class TestReadStatic:
    def test_two_layouts_by_name_with_spaces(self, tmp_path):
        write(tmp_path, f"deep/{EXCERPTS}", HEADER + "7 , 3.1, 0.94 ,3, 0.63\r\n\r\n2,5,1,6,0\r\n", "utf-8-sig")
        write(
            tmp_path,
            FULL,
            "song_id, valence_mean, valence_std, valence_ max_mean, valence_max_std, arousal_mean, arousal_std\r\n"
            "2001,3.2,0.98,5.0,1.41,6.6,0.8\r\n",
        )
        static = read_static(tmp_path)
        assert static.index.name == "song_id" and static.index.dtype == np.int64
        assert list(static.columns) == ["valence", "valence_std", "arousal", "arousal_std"]
        assert (static.dtypes == "float64").all()
        assert static.index.tolist() == [2, 7, 2001]
        assert static.loc[7].tolist() == [3.1, 0.94, 3, 0.63]
        assert static.loc[2001].tolist() == [3.2, 0.98, 6.6, 0.8]

    @pytest.mark.parametrize(
        ("row", "value"),
        [
            ("3,rather high,1,5,1", "valence_mean 'rather high' is not a number"),
            ("3,,1,5,1", "valence_mean '' is not a number"),
            ("3,5,1,NaN,1", "arousal_mean 'NaN' is not a number"),
            ("3,9.5,1,5,1", "valence_mean '9.5' is outside 1 to 9"),
            ("3,5,1,0.9,1", "arousal_mean '0.9' is outside 1 to 9"),
            ("3,5,-0.1,5,1", "valence_std '-0.1' is outside 0"),
            ("3,5,1,5,inf", "arousal_std 'inf' is outside 0"),
            ("three,5,1,5,1", "song_id 'three' is not an integer"),
            ("3,5,1,5", "4 cells for 5 columns"),
            ("3,5,1,5,1,5", "6 cells for 5 columns"),
            ("2,5,1,5,1", "song_id 2 is repeated, first given in"),
        ],
    )
    def test_bad_row_names_file_line_and_value(self, tmp_path, row, value):
        write(tmp_path, EXCERPTS, HEADER + "2,5,1,5,1\r\n\r\n" + row + "\r\n4,5,1,5,1\r\n")
        text = message(read_static, tmp_path)
        assert f"{EXCERPTS}, line 4: " in text and value in text
        assert text.startswith("1 fault:\n")

    def test_duplicates_name_both_places(self, tmp_path):
        write(tmp_path, EXCERPTS, HEADER + "5,5,1,5,1\r\n2001,5,1,5,1\r\n")
        write(tmp_path, FULL, HEADER + "2001,5,1,5,1\r\n")
        text = message(read_static, tmp_path)
        assert f"{FULL}, line 2" in text and f"{EXCERPTS}, line 3" in text and "2001" in text

    def test_of_many_bad_rows_five_are_shown_and_the_rest_counted(self, tmp_path):
        write(tmp_path, EXCERPTS, HEADER + "".join(f"{i},55,1,5,1\r\n" for i in range(8)))
        text = message(read_static, tmp_path)
        assert text.startswith("8 faults:") and text.count("'55'") == 5 and text.endswith("and 3 more")

    def test_missing_column_says_what_was_expected_and_found(self, tmp_path):
        write(tmp_path, EXCERPTS, HEADER.replace("arousal_mean", "arousal_maen") + "2,5,1,5,1\r\n")
        text = message(read_static, tmp_path)
        assert EXCERPTS in text and "line 1" in text
        assert "missing columns arousal_mean (nearest: arousal_maen)" in text
        assert "expected song_id, valence_mean" in text and "found song_id, valence_mean" in text

    def test_unclosed_quote(self, tmp_path):
        write(tmp_path, EXCERPTS, HEADER + '2,"5,1,5,1\r\n' + "3,5,1,5,1\r\n" * 20000)
        text = message(read_static, tmp_path)
        assert EXCERPTS in text and "not a CSV file" in text

    def test_no_file_and_no_row(self, tmp_path):
        write(tmp_path, "notes.txt", "x")
        text = message(read_static, tmp_path)
        assert EXCERPTS in text and FULL in text and str(tmp_path) in text
        write(tmp_path, FULL, HEADER)
        assert "no songs" in message(read_static, tmp_path)
        write(tmp_path, FULL, "")
        assert "found none" in message(read_static, tmp_path)

    @real
    def test_deam(self):
        static = read_static(DEAM)
        assert len(static) == 1802 and static.index.is_monotonic_increasing
        assert static.index[0] == 2 and static.index[-1] == 2058
        assert static.loc[2].tolist() == [3.1, 0.94, 3, 0.63]
        assert static.loc[2001].tolist() == [3.2, 0.98, 6.6, 0.8]


class TestReadDynamic:
    def both(self, root, valence, arousal=None):
        write(root, "valence.csv", valence)
        write(root, "arousal.csv", arousal or wide("2,0,0", "3,0,0,0"))

    def test_ragged_curves(self, tmp_path):
        self.both(tmp_path, wide("3,0.1,-0.2,1", "2,0.5,-1,NaN,"), wide("3,0,0,0", "2,.1,.2,,"))
        curves = read_dynamic(tmp_path)
        assert list(curves) == [2, 3]
        assert curves[2][:2] == (15.0, 0.5) and curves[2].valence.dtype == np.float32
        np.testing.assert_allclose(curves[2].valence, [0.5, -1])
        np.testing.assert_allclose(curves[2].arousal, [0.1, 0.2])
        np.testing.assert_allclose(curves[3].valence, [0.1, -0.2, 1], rtol=1e-6)

    def test_none_is_fine_and_one_is_not(self, tmp_path):
        write(tmp_path, "notes.txt", "x")
        assert read_dynamic(tmp_path) == {}
        path = write(tmp_path, "arousal.csv", wide("2,0"))
        text = message(read_dynamic, tmp_path)
        assert str(path) in text and "no valence.csv" in text

    def test_song_in_one_file_only(self, tmp_path):
        self.both(tmp_path, wide("2,0,0", "17,0"), wide("2,0,0"))
        text = message(read_dynamic, tmp_path)
        assert "1 songs are only in" in text and "valence.csv: 17" in text

    @pytest.mark.parametrize(
        ("row", "value"),
        [
            ("3,0,1.2,0", "sample_15500ms '1.2' is outside -1 to 1"),
            ("3,high,0,0", "sample_15000ms 'high' is not a number"),
            ("3,0,,0", "sample_15500ms '' is not a number"),
            ("x,0,0,0", "song_id 'x' is not an integer"),
            ("2,0,0,0", "song_id 2 is repeated, first given in line 2"),
            ("3,0,0,0,0,0", "6 cells for 5 columns"),
        ],
    )
    def test_bad_row_names_file_line_and_value(self, tmp_path, row, value):
        self.both(tmp_path, wide("2,0,0", row))
        text = message(read_dynamic, tmp_path)
        assert f"valence.csv, line 3: {value}" in text

    def test_unequal_lengths(self, tmp_path):
        self.both(tmp_path, wide("2,0,0", "3,0,0"))
        text = message(read_dynamic, tmp_path)
        assert "1 songs have unequal numbers of values" in text and text.endswith(": 3")

    @pytest.mark.parametrize("header", ["song_id,sample_1s", "song_id", "song_id,sample_0ms,sample_1000ms"])
    def test_other_layouts(self, tmp_path, header):
        self.both(tmp_path, header + "\n2,0,0\n")
        text = message(read_dynamic, tmp_path)
        assert "valence.csv, line 1" in text and f"got {header}" in text

    def test_different_starts(self, tmp_path):
        self.both(tmp_path, wide("2,0,0", "3,0,0,0", start=0))
        text = message(read_dynamic, tmp_path)
        assert "0.0 s" in text and "15.0 s" in text

    def test_song_without_values_is_skipped_with_a_warning(self, tmp_path, caplog):
        self.both(tmp_path, wide("2,0,0", "3,,NaN,"))
        assert list(read_dynamic(tmp_path)) == [2]
        (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        assert warning.startswith(f"1 songs have no dynamic values in {tmp_path / 'valence.csv'} or ")
        assert warning.endswith("left without curves: 3 (line 3)")

    @real
    def test_deam(self):
        curves = read_dynamic(DEAM)
        assert len(curves) == 1802
        assert curves[2][:2] == (15.0, 0.5) and len(curves[2].valence) == len(curves[2].arousal) == 60
        assert max(len(curve.valence) for curve in curves.values()) == 1223


class TestReadArtists:
    def test_three_layouts_and_ragged_rows(self, tmp_path, caplog):
        write(tmp_path, "metadata_2013.csv", '"song_id","file_name","Artist"\r\n"2","\t2.mp3","Kevin  MacLeod\t"\r\n')
        write(
            tmp_path,
            "metadata_2014.csv",
            "Id,Artist,Album,last.fm labels\r\n"
            '1001,Mr. & Mrs. Smith,From Holly, with Love,pop,rock,,,\r\n1002, ,x,y\r\n"1003\r\n1004\r\n'
            "rest of 1002,z\r\n,,,\r\n1005,Caf\u00e9 Zo\u00eb\r\n",
            "latin-1",
        )
        write(tmp_path, "metadata_2015.csv", "id,Filename,title,artist,\n2031,80504,Go,No, Really\n", "utf-8-sig")
        caplog.set_level(logging.WARNING)
        assert read_artists(tmp_path) == {
            2: "Kevin MacLeod",
            1001: "Mr. & Mrs. Smith",
            1005: "Caf\ufffd Zo\ufffd",
            2031: "No",
        }
        (record,) = caplog.records
        assert "metadata_2014.csv: skipped 1 rows" in record.getMessage()

    def test_missing_column(self, tmp_path):
        write(tmp_path, "metadata_2015.csv", "id,title,performer\n2001,Go,No\n")
        text = message(read_artists, tmp_path)
        assert "metadata_2015.csv, line 1: missing columns artist" in text and "title, performer" in text

    def test_no_metadata(self, tmp_path):
        write(tmp_path, "notes.txt", "x")
        assert read_artists(tmp_path) == {}

    @real
    def test_deam(self):
        artists = read_artists(DEAM)
        assert len(artists) == 744 and artists[2] == "The New Mystikal Troubadours"
        assert all(name == name.strip() and name for name in artists.values())


class TestRepair:
    def collection(self, exchanged, n=40, first=990):
        """Songs with ids from `first`; on request, those up to 1000 are exchanged. V and A correlate by 0.6."""
        rng = np.random.default_rng(0)
        emotion = np.clip(rng.multivariate_normal([0, 0], [[0.1, 0.06], [0.06, 0.1]], n), -1, 1)
        song_ids = np.arange(first, first + n)
        values = {"valence": emotion[:, 0] * 4 + 5, "valence_std": 1.0, "arousal": emotion[:, 1] * 4 + 5}
        static = pd.DataFrame({**values, "arousal_std": 2.0}, index=pd.Index(song_ids, name="song_id"))
        curves = {
            int(key): Curve(15.0, 0.5, *(np.float32(e) + rng.normal(0, 0.05, (2, 8)).astype("float32")))
            for key, e in zip(song_ids, emotion[:, :, None], strict=True)
        }
        given = static.copy()
        if exchanged:
            block = song_ids <= 1000
            given.loc[block] = static.loc[block, ["arousal", "arousal_std", "valence", "valence_std"]].to_numpy()
        return given, curves, static

    @pytest.mark.parametrize("exchanged", [True, False])
    def test_decides_from_the_data(self, exchanged, caplog):
        caplog.set_level(logging.INFO)
        given, curves, static = self.collection(exchanged)
        before = given.copy()
        assert given.equals(static) is not exchanged
        repaired = repair(given, curves)
        pd.testing.assert_frame_equal(repaired, static)
        pd.testing.assert_frame_equal(given, before)
        assert repaired is not given
        (record,) = caplog.records
        expected = "are exchanged in 11 rows" if exchanged else "are in order"
        assert record.levelno == logging.INFO and record.getMessage().endswith(expected)

    def test_songs_of_the_block_without_curves_are_exchanged_too(self):
        given, curves, static = self.collection(True)
        del curves[990]
        pd.testing.assert_frame_equal(repair(given, curves), static)

    @pytest.mark.parametrize("known", [0, 9])
    def test_too_few_curves_to_tell(self, known, caplog):
        given, curves, _ = self.collection(True)
        curves = {key: curves[key] for key in list(curves)[:known]}
        pd.testing.assert_frame_equal(repair(given, curves), given)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and f"{known} of 11 songs have curves" in record.getMessage()

    def test_constant_labels_cannot_tell(self, caplog):
        given, curves, _ = self.collection(True)
        given["valence"] = 5.1
        pd.testing.assert_frame_equal(repair(given, curves), given)
        assert "cannot tell" in caplog.text

    def test_nothing_to_decide_without_the_block(self, caplog):
        given, curves, _ = self.collection(True, first=1001)
        pd.testing.assert_frame_equal(repair(given, curves), given)
        assert not caplog.records

    def test_another_range_is_exchanged_back_too(self, caplog):
        caplog.set_level(logging.INFO)
        static, curves, _ = self.collection(False, n=300, first=1501)
        given = static.copy()
        given.loc[1600:1700] = static.loc[1600:1700, ["arousal", "arousal_std", "valence", "valence_std"]].to_numpy()
        repaired = repair(given, curves)
        wrong = (repaired["valence"] - static["valence"]).abs() > 1e-9
        assert wrong.sum() <= 6 and set(wrong.index[wrong]) <= {*range(1594, 1607), *range(1694, 1707)}
        assert caplog.messages[0].endswith("rows") and "with ids 1" in caplog.messages[0]

    @real
    def test_deam(self, caplog):
        caplog.set_level(logging.INFO)
        static, curves = read_static(DEAM), read_dynamic(DEAM)
        repaired = repair(static, curves)
        assert "are exchanged in 744 rows" in caplog.text
        assert correlations(static, curves) == pytest.approx((0.734, 0.677), abs=1e-3)
        valence, arousal = correlations(repaired, curves)
        assert valence >= 0.90 and arousal >= 0.87
        pd.testing.assert_frame_equal(repaired.loc[1001:], static.loc[1001:])
        assert repaired.loc[2].tolist() == [3, 0.63, 3.1, 0.94]
        pd.testing.assert_frame_equal(repair(repaired, curves), repaired)
