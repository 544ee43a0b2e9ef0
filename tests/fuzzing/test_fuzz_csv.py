"""Damaged and absurd CSV files: either valid songs, or an `AnnotationError` or `SplitError`."""

import csv
import inspect
import io
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzz import bounds, damaged, fuzz, one_line
from hypothesis import strategies as st

from emotion_ft.data.collections import annotations
from emotion_ft.data.collections.annotations import read_artists, read_dynamic, read_static
from emotion_ft.data.collections.csv_collection import load_collection_file, load_csv
from emotion_ft.data.collections.csv_tables import read_songs
from emotion_ft.data.files import COLLECTION, MAX_BYTES, MAX_COLUMNS, AnnotationError
from emotion_ft.data.splits import SPLIT_NAMES, SplitError, read_split

pytestmark = pytest.mark.stress

EXCERPTS, FULL = annotations.STATIC_FILES
ODD = [
    *("", " ", "nan", "NaN", "inf", "-inf", "1e400", "1e9", "-1", "-0", "2.0"),
    *("0x10", "1_000", "+7", "007", "1,5", "True"),
    *("٣", "३.५", "²", "½", "１２", "\0", "2\0", "\ufeff2", "\u2028", "\x1b[31m"),
    *("e\u0301", "💥", "=1+1", "'", '"', 'a"b'),
    *("a,b", "a\nb", "\r", "../../x", "/etc/passwd", "..\\..\\x", "C:\\x", "~root"),
    *(".", "..", "../secret.mp3", "1.mp3"),
    *("9" * 10, "9" * 19, "9" * 5000, "x" * 3000, "x" * 140_000, "song_id"),
    *("valence_mean", "sample_15000ms", "id", "audio"),
    *(f"sample_{'9' * digits}ms" for digits in (9, 10, 400, 5000)),
]  # fmt: skip
STATIC = {
    EXCERPTS: "song_id, valence_mean, valence_std, arousal_mean, arousal_std\r\n"
    "2,3.1,0.94,3,0.63\r\n3,3.5,1.75,3.3,1.62\r\n",
    FULL: "song_id, valence_mean, valence_std, valence_ max_mean, valence_max_std, valence_min_mean, valence_min_std,"
    " arousal_mean, arousal_std, arousal_max_mean, arousal_max_std, arousal_min_mean, arousal_min_std\r\n"
    "2001,3.2,0.98,5,1.41,2.4,1.2,6.6,0.8,7,1,4.8,1.2\r\n2002,5,1,6,1,4,1,5,1,6,1,4,1\r\n",
}  # fmt: skip
PADDED = STATIC[EXCERPTS].replace(",", " , ").replace("\r\n", " \r\n")
DYNAMIC = "song_id,sample_15000ms,sample_15500ms,sample_16000ms\r\n2,0.1,-0.2,0.3\r\n3,0.5,1,NaN\r\n"
METADATA = {
    "metadata_2013.csv": '"song_id","file_name","Artist","Song title","start","end","Genre"\r\n'
    '"2","\t2.mp3","The New Mystikal Troubadours\t","\tTonight","\t0.48","\t1.33","\tBlues\t"\r\n',
    "metadata_2014.csv": "Id,Artist,Album,Track,Genre,segment start,segment end,last.fm labels\r\n"
    "1001,Mr. & Mrs. Smith,From Holly, with Love,Track,Rock,1,2,pop,rock,,,\r\n1002,,x\r\n",
    "metadata_2015.csv": "id,Filename,title,artist,album,genre\r\n2001,80504,Go,Zoë,None,Pop\r\n",
}
LABELS = (
    "song_id,valence,arousal,valence_std,arousal_std,artist,audio\n1,5,5,1,1,A,1.mp3\n2,3.5,7,,0.5,B,music/2.mp3\n"
)


def with_cells(text, changes):
    """A table with cells replaced, added and dropped, and rows repeated."""
    rows = list(csv.reader(io.StringIO(text)))
    for row, column, cell, kind in changes:
        cells = rows[row % len(rows)]
        if kind == "repeat":
            rows.insert(row % len(rows), list(cells))
        elif kind == "drop" and len(cells) > 1:
            del cells[column % len(cells)]
        elif kind == "add":
            cells.append(cell)
        else:
            cells[column % len(cells)] = cell
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def tables(*texts):
    kinds = st.sampled_from(["cell", "cell", "cell", "repeat", "drop", "add"])
    change = st.tuples(st.integers(0, 3), st.integers(0, 12), st.sampled_from(ODD), kinds)
    changed = st.builds(with_cells, st.sampled_from(texts), st.lists(change, min_size=1, max_size=3))
    recoded = st.builds(
        lambda text, encoding: text.encode(encoding, "replace"),
        st.sampled_from(texts),
        st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037"]),
    )
    return st.one_of(changed, changed, damaged([text.encode() for text in texts]), recoded)


def check_error(error, *names):
    lines = str(error).splitlines()
    assert len(lines) <= 8  # the count, the first five faults, the number of others, a hint
    for line in lines:
        one_line(line)
    one_line(" ".join(lines), *names, longest=8000)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


def test_static(tmp_path):
    def check(name, data):
        (tmp_path / name).write_bytes(data)
        try:
            static = read_static(tmp_path)
        except AnnotationError as error:
            check_error(error, name)
        else:
            assert str(static.index.dtype) == "int64" and static.index.is_unique and len(static)
            assert static.index.min() >= 0 and static.index.max() < COLLECTION
            assert static[["valence", "arousal"]].map(lambda x: 1 <= x <= 9).all(axis=None)
            assert static[["valence_std", "arousal_std"]].map(lambda x: 0 <= x < math.inf).all(axis=None)
        finally:
            (tmp_path / name).unlink()

    texts = tables(*STATIC.values(), PADDED)
    fuzz("CSV, static", 2000, check, st.sampled_from(list(STATIC)), texts)


def test_dynamic(tmp_path):
    (tmp_path / "arousal.csv").write_text(DYNAMIC)

    def check(data):
        (tmp_path / "valence.csv").write_bytes(data)
        try:
            curves = read_dynamic(tmp_path)
        except AnnotationError as error:
            check_error(error, tmp_path)
        else:
            assert all(0 <= song_id < COLLECTION for song_id in curves)
            for start, step, valence, arousal in curves.values():
                assert 0 <= start < 1e6 and step == 0.5 and len(valence) == len(arousal) > 0
                assert valence.dtype == np.float32 and (np.abs(valence) <= 1).all()

    fuzz("CSV, dynamic", 1500, check, tables(DYNAMIC, PADDED))


def test_metadata(tmp_path):
    def check(name, data):
        (tmp_path / name).write_bytes(data)
        try:
            artists = read_artists(tmp_path)
        except AnnotationError as error:
            check_error(error, name)
        else:
            assert all(0 <= key < COLLECTION and artist.strip() == artist != "" for key, artist in artists.items())
        finally:
            (tmp_path / name).unlink()

    fuzz("CSV, metadata", 1500, check, st.sampled_from(list(METADATA)), tables(*METADATA.values()))


class TestCollection:
    @pytest.fixture
    def root(self, tmp_path):
        """A folder of audio, and next to it files that no CSV file may lead to."""
        audio = tmp_path / "audio"
        (audio / "music").mkdir(parents=True)
        for name in ("audio/1.mp3", "audio/music/2.mp3", "secret.mp3", "x", "passwd.mp3"):
            (tmp_path / name).touch()
        return tmp_path

    def test_tables(self, root):
        path = root / "labels.csv"
        columns = st.sampled_from([{}, {"audio": "audio"}, {"valence": ["V", "valence"]}, {"artist": "song_id"}])

        def check(data, columns):
            path.write_bytes(data)
            try:
                songs = read_songs([path], columns)
            except AnnotationError as error:
                check_error(error, "labels.csv")
            else:
                assert songs and all(song and cells["song_id"].text for song, cells in songs.items())

        fuzz("CSV, tables", 2000, check, tables(LABELS), columns)

    def test_songs(self, root):
        path = root / "labels.csv"
        ids = st.sampled_from([None, "deam", "x"])

        def check(data, columns, ids):
            path.write_bytes(data)
            try:
                songs = load_csv(path, root / "audio", columns, source="Some", ids=ids)
            except AnnotationError as error:
                check_error(error)
            else:
                for row in songs:
                    audio = Path(os.path.realpath(row["audio"]["path"]))
                    assert audio.is_relative_to(root / "audio") and audio.suffix == ".mp3"
                    assert 0 <= row["song_id"] < 1 << 48 and 1 <= row["valence"] <= 9 and 1 <= row["arousal"] <= 9

        fuzz("CSV, songs", 500, check, tables(LABELS), st.sampled_from([{}, {"audio": "audio"}]), ids)

    def test_descriptions(self, root):
        """The YAML file of a collection, its keys and values."""
        (root / "labels.csv").write_text(LABELS)
        path = root / "some.yaml"
        odd = [*ODD[:50], None, [], {}, True, -1, 1e308, [0, 10**400], [-1e308, 1e308], [0, 5e-324], "~nobody/x"]
        values = st.one_of(
            st.sampled_from(odd),
            st.lists(st.one_of(st.floats(), st.integers()), max_size=3),
        )
        keys = st.sampled_from([*inspect.signature(load_csv).parameters, "root", "x"])
        changes = st.dictionaries(keys, values, min_size=1, max_size=2)

        def check(changes):
            content = {"csv": "labels.csv", "audio_dir": "audio", **changes}
            path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="replace")
            try:
                songs = load_collection_file(path)
            except AnnotationError as error:
                check_error(error, "some.yaml")
            else:
                assert all(1 <= row["valence"] <= 9 and 1 <= row["arousal"] <= 9 for row in songs)

        fuzz("CSV, descriptions", 500, check, changes)

    @pytest.mark.parametrize("scale", [(0, 5e-324), (-1e308, 1e308), (0, 10**400), (1e300, 2e300), (math.nan, 9)])
    def test_a_scale_beyond_the_precision_of_floats(self, root, scale):
        (root / "labels.csv").write_text("song_id,valence,arousal\n1,0,0\n")
        with pytest.raises(AnnotationError, match=r"label_range must be two numbers within ±1e\+09"):
            load_csv(root / "labels.csv", root / "audio", label_range=scale)

    @pytest.mark.parametrize("name", ["../secret.mp3", "/etc/passwd.mp3", "..\\secret.mp3", "audio/../../secret.mp3"])
    def test_a_name_does_not_lead_out_of_the_audio_folder(self, root, name):
        (root / "labels.csv").write_text(f'song_id,valence,arousal,audio\n1,5,5,"{name}"\n{name},5,5,1.mp3\n')
        songs = load_csv(root / "labels.csv", root / "audio", {"audio": "audio"})
        assert [Path(audio["path"]) for audio in songs["audio"]] == [root / "audio" / "1.mp3"]


def test_id_lists(tmp_path):
    for name in SPLIT_NAMES:
        (tmp_path / f"{name}.txt").write_text("")

    def check(data):
        (tmp_path / "train.txt").write_bytes(data)
        try:
            splits = read_split(tmp_path)
        except SplitError as error:
            one_line(str(error), "train.txt", longest=1500)
        else:
            train = splits["train"]
            assert train == sorted(set(train)) and all(0 <= song_id < 10**15 for song_id in train)

    lines = st.lists(st.one_of(st.sampled_from(ODD), st.integers().map(str)), max_size=4).map("\n".join)
    fuzz("CSV, id lists", 1000, check, st.one_of(lines.map(str.encode), damaged([b"2\r\n3\r\n1001\r\n"])))


class TestBounds:
    def check(self, tmp_path, data, said, read=read_static, name=EXCERPTS):
        (tmp_path / name).write_bytes(data)
        with bounds(), pytest.raises(AnnotationError) as raised:
            read(tmp_path)
        assert said in str(raised.value)
        check_error(raised.value, name)

    def test_a_million_columns(self, tmp_path):
        names = ",".join(f"c{number}" for number in range(1_000_000)).encode()
        for name, read in ((EXCERPTS, read_static), ("valence.csv", read_dynamic)):
            (tmp_path / "arousal.csv").write_text(DYNAMIC)
            self.check(tmp_path, names, "1000000 columns, but at most 16384", read, name)
        (tmp_path / "labels.csv").write_bytes(names)
        with bounds(), pytest.raises(AnnotationError, match=r"labels.csv, line 1: 1000000 columns, but at most"):
            read_songs([tmp_path / "labels.csv"], {})

    def test_as_many_columns_as_allowed(self, tmp_path):
        names = ",".join(f"valenc{number:09}" for number in range(MAX_COLUMNS)).encode()
        self.check(tmp_path, names, "missing columns song_id")
        (tmp_path / "labels.csv").write_bytes(b"song_id" + names)
        with bounds(), pytest.raises(AnnotationError, match="no column for song_id"):
            read_songs([tmp_path / "labels.csv"], {})

    def test_a_large_file_is_not_read(self, tmp_path):
        with open(tmp_path / EXCERPTS, "wb") as file:
            file.truncate(10 * 2**30)
        with (
            bounds(megabytes=32),
            pytest.raises(AnnotationError, match="has 10737418240 bytes, but"),
        ):
            read_static(tmp_path)
        with bounds(megabytes=32), pytest.raises(AnnotationError, match="has 10737418240 bytes"):
            read_songs([tmp_path / EXCERPTS], {})

    @pytest.mark.parametrize("cell", [b'"', b'"\n\n",', b",\n", b"1\n", b"\0", b'""', b"\xff", b"4,1,1,1,1\n"])
    def test_a_file_as_large_as_allowed(self, tmp_path, cell):
        data = (STATIC[EXCERPTS].encode() + cell * MAX_BYTES)[:MAX_BYTES]
        (tmp_path / EXCERPTS).write_bytes(data)
        with bounds(seconds=30):
            try:
                assert len(read_static(tmp_path)) == 2  # nothing but blank rows follows
            except AnnotationError as error:
                check_error(error, EXCERPTS)

    def test_what_is_not_a_file(self, tmp_path):
        os.mkfifo(tmp_path / EXCERPTS)
        with pytest.raises(AnnotationError, match=f"{EXCERPTS} cannot be read: not a file"):
            read_static(tmp_path)
        (tmp_path / EXCERPTS).unlink()
        (tmp_path / EXCERPTS).symlink_to(tmp_path / "nowhere")
        with pytest.raises(AnnotationError, match=f"{EXCERPTS} cannot be read: No such file"):
            read_static(tmp_path)
