import multiprocessing
import os
import shutil
import signal

import numpy as np
import pyarrow
import pytest
import soundfile
from datasets import DatasetDict, Value

from emotion_ft.data import features
from emotion_ft.data.collections.deam import load_deam
from emotion_ft.data.features import BadFile, LogMel, TooManyBadFiles, store_log_mels
from emotion_ft.modeling import ASTEmotionFeatureExtractor


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def root(songs_root, tmp_path):
    """A copy of the songs, to be damaged."""
    return shutil.copytree(songs_root, tmp_path / "songs")


def audio(root, song_id):
    return next(root.rglob(f"{song_id}.wav"))


def spectrogram(row):
    return np.frombuffer(row["log_mel"], np.float16).reshape(row["frames"], -1)


def times(cache):
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def by_id(songs):
    return {row["song_id"]: row for split in songs.values() for row in split}


def test_stored_log_mels_are_those_of_the_whole_file(stored_songs, tiny_extractor):
    for split in stored_songs.values():
        for row in split.select(range(2)):
            waveform, rate = soundfile.read(row["audio"]["path"], dtype="float32")
            assert rate == 16000
            expected = tiny_extractor.log_mel(waveform)
            assert row["frames"] == len(expected) == 1 + len(waveform) // 320
            np.testing.assert_allclose(spectrogram(row), expected, rtol=2**-10)  # half precision


def test_splits_keep_rows_order_columns_and_description(songs_root, tiny_extractor, cache):
    songs = DatasetDict({name: split.shuffle(seed=0) for name, split in load_deam(songs_root).items()})
    for name, split in songs.items():
        split.info.description = f"the {name} songs"
    stored, _ = store_log_mels(songs, tiny_extractor, cache)
    assert stored.keys() == songs.keys()
    for name, split in stored.items():
        assert split.info.description == f"the {name} songs"
        assert split.features == {**songs[name].features, "log_mel": Value("binary"), "frames": Value("int32")}
        assert split.remove_columns(["log_mel", "frames"])[:] == songs[name][:]


def test_log_mels_stay_on_disk(songs_root, tiny_extractor, cache):
    songs = load_deam(songs_root)
    before = pyarrow.total_allocated_bytes()
    stored, _ = store_log_mels(songs, tiny_extractor, cache)
    size = sum(sum(split["frames"]) * 128 * 2 for split in stored.values())
    assert pyarrow.total_allocated_bytes() - before < 0.05 * size
    files = {file["filename"] for split in stored.values() for file in split.cache_files}
    assert files == {str(path) for path in cache.iterdir()}
    assert size < sum(path.stat().st_size for path in cache.iterdir()) < 1.1 * size


class TestCache:
    def test_a_second_call_decodes_nothing(self, root, tiny_extractor, cache, monkeypatch):
        songs = load_deam(root)
        first, _ = store_log_mels(songs, tiny_extractor, cache)
        before = times(cache)
        monkeypatch.setattr(LogMel, "__call__", lambda self, row: pytest.fail("decoded again"))
        second, bad = store_log_mels(songs, tiny_extractor, cache)
        assert not bad and times(cache) == before
        for name, split in first.items():
            assert second[name][:] == split[:]

    def test_a_file_made_readable_is_read(self, root, tiny_extractor, cache):
        path = next(root.rglob("*.wav"))
        content, stat = path.read_bytes(), path.stat()
        path.write_bytes(b"x" * stat.st_size)
        _, bad = store_log_mels(load_deam(root), tiny_extractor, cache)
        assert [file.song_id for file in bad] == [int(path.stem)]
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert not store_log_mels(load_deam(root), tiny_extractor, cache)[1]

    def test_labels_and_splits_do_not_matter(self, root, tiny_extractor, cache):
        first = by_id(store_log_mels(load_deam(root), tiny_extractor, cache)[0])
        before = times(cache)
        csv = next(root.glob("*.csv"))
        header, *lines = csv.read_text().splitlines()
        lines = [",".join([line.split(",")[0], " 3.25, 1, 7.5, 1"]) for line in lines]
        csv.write_text("\n".join([header, *lines]))
        songs = load_deam(root, seed=7, validation_fraction=0.3, test_fraction=0.3)
        stored, _ = store_log_mels(songs, tiny_extractor, cache)
        assert times(cache) == before
        for name, split in stored.items():
            assert split["song_id"][:] == songs[name]["song_id"][:]
            for row in split:
                assert (row["valence"], row["arousal"]) == (3.25, 7.5)
                assert row["log_mel"] == first[row["song_id"]]["log_mel"]

    @pytest.mark.parametrize("settings", [{"n_fft": 512}, {"hop_length": 400}, {"f_min": 60.0}, {"num_mel_bins": 64}])
    def test_another_front_end_is_computed(self, songs_root, tiny_extractor, cache, settings):
        songs = load_deam(songs_root)
        store_log_mels(songs, tiny_extractor, cache)
        before = times(cache)
        extractor = ASTEmotionFeatureExtractor(**{**tiny_extractor.to_dict(), **settings})
        row = store_log_mels(songs, extractor, cache)[0]["train"][0]
        assert len(times(cache)) == 2 * len(before)
        expected = extractor.log_mel(soundfile.read(row["audio"]["path"], dtype="float32")[0])
        np.testing.assert_allclose(spectrogram(row), expected, rtol=2**-10)

    def test_other_windows_are_not(self, songs_root, tiny_extractor, cache):
        songs = load_deam(songs_root)
        store_log_mels(songs, tiny_extractor, cache)
        before = times(cache)
        store_log_mels(songs, ASTEmotionFeatureExtractor(max_length=333, num_windows=9), cache)
        assert times(cache) == before

    def test_a_changed_file_is_computed_again(self, root, tiny_extractor, cache):
        first = by_id(store_log_mels(load_deam(root), tiny_extractor, cache)[0])
        path = audio(root, 1010)
        samples, rate = soundfile.read(path)
        stat = path.stat()
        soundfile.write(path, samples[::-1], rate)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        second = by_id(store_log_mels(load_deam(root), tiny_extractor, cache)[0])
        assert [i for i in first if first[i]["log_mel"] != second[i]["log_mel"]] == [1010]

    def test_a_killed_run_resumes_where_it_was(self, songs_root, tiny_extractor, cache, monkeypatch):
        original = features.LogMel.__call__

        def killed_at_the_tenth_song(self, row):
            if row["song_id"] == 1019:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, row)

        monkeypatch.setattr(features, "PART_SIZE", 4)
        monkeypatch.setattr(features.LogMel, "__call__", killed_at_the_tenth_song)
        arguments = (load_deam(songs_root), tiny_extractor, cache)
        run = multiprocessing.get_context("fork").Process(target=store_log_mels, args=arguments)
        run.start()
        run.join(timeout=60)
        assert run.exitcode == -signal.SIGKILL
        finished = {name: time for name, time in times(cache).items() if name.startswith("log_mel-")}
        assert len(finished) == 2  # songs 1010-1011 and 1012-1015; 1016-1019 was in progress

        computed = []

        def counting(self, row):
            computed.append(row["song_id"])
            return original(self, row)

        monkeypatch.setattr(features.LogMel, "__call__", counting)
        stored = by_id(store_log_mels(load_deam(songs_root), tiny_extractor, cache)[0])
        assert computed == list(range(1016, 1034))
        assert finished.items() <= times(cache).items()
        assert sorted(stored) == list(range(1010, 1034))


def test_processes_do_not_change_the_result(songs_root, stored_songs, tiny_extractor, cache, monkeypatch):
    monkeypatch.setattr(features, "PART_SIZE", 8)
    stored, bad = store_log_mels(load_deam(songs_root), tiny_extractor, cache, num_proc=2)
    assert not bad and len(times(cache)) == 4
    for name, split in stored_songs.items():
        assert stored[name][:] == split[:]


class TestBadFiles:
    REASONS = {1011: "cannot be decoded", 1017: "too short: 0.50 s", 1024: "NaN or infinite"}  # noqa: RUF012

    @pytest.fixture
    def damaged(self, root):
        audio(root, 1011).write_text("no music")
        soundfile.write(audio(root, 1017), np.zeros(8000), 16000)
        soundfile.write(audio(root, 1024), np.full(48000, np.nan), 16000, subtype="FLOAT")
        return root

    @pytest.mark.parametrize("num_proc", [1, 2])
    def test_they_are_reported_and_left_out_of_every_split(self, damaged, tiny_extractor, cache, caplog, num_proc):
        songs = load_deam(damaged, seed=3)
        stored, bad = store_log_mels(songs, tiny_extractor, cache, num_proc, max_bad_fraction=3 / 24)
        assert [(file.song_id, file.path) for file in bad] == [(i, str(audio(damaged, i))) for i in self.REASONS]
        for file in bad:
            assert isinstance(file, BadFile) and self.REASONS[file.song_id] in file.reason
        for name, split in songs.items():
            assert stored[name]["song_id"][:] == [i for i in split["song_id"] if i not in self.REASONS]
            assert 0 not in stored[name]["frames"][:]
        assert "3 of 24 audio files cannot be used" in caplog.text

    def test_from_the_cache_too(self, damaged, tiny_extractor, cache):
        songs = load_deam(damaged)
        _, first = store_log_mels(songs, tiny_extractor, cache, max_bad_fraction=0.5)
        _, second = store_log_mels(songs, tiny_extractor, cache, max_bad_fraction=0.5)
        assert first == second and len(first) == 3

    def test_too_many_stop_with_names_and_reasons(self, damaged, tiny_extractor, cache):
        with pytest.raises(TooManyBadFiles) as raised:
            store_log_mels(load_deam(damaged), tiny_extractor, cache, max_bad_fraction=0.12)
        for part in ("3 of 24", "max_bad_fraction=0.12", *self.REASONS.values(), *(f"{i}.wav" for i in self.REASONS)):
            assert part in str(raised.value)

    def test_a_repaired_file_is_used(self, damaged, tiny_extractor, cache, write_wav):
        store_log_mels(load_deam(damaged), tiny_extractor, cache, max_bad_fraction=0.5)
        write_wav(audio(damaged, 1011))
        stored, bad = store_log_mels(load_deam(damaged), tiny_extractor, cache, max_bad_fraction=0.5)
        assert [file.song_id for file in bad] == [1017, 1024]
        assert by_id(stored)[1011]["frames"] == 151

    def test_a_broken_link_is_a_bad_file(self, root, tiny_extractor, cache):
        path = audio(root, 1020)
        path.unlink()
        path.symlink_to("elsewhere.wav")
        _, bad = store_log_mels(load_deam(root), tiny_extractor, cache)
        assert bad == [BadFile(1020, str(path), "no such file")]
