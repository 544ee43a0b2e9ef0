import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import DatasetDict

from emotion_ft.data.copies import AGREEMENT, Copies, agreement, find_copies, fingerprint, leave_out_copies
from emotion_ft.data.features import store_log_mels
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.data.songs import songs_dataset

AUDIO = Path(__file__).resolve().parents[3] / "shared" / "audio"
real = pytest.mark.skipif(not AUDIO.is_dir(), reason="the four pieces are not available")
RATE = 44100
SECONDS = 15


def songs(paths, first=1):
    ids = list(range(first, first + len(paths)))
    labels = {"valence": [5.0] * len(ids), "arousal": [5.0] * len(ids)}
    return songs_dataset({"song_id": ids, "source": ["X"] * len(ids), "audio": paths, **labels}, "X")


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny_extractor):
    """`stored(paths)` -> a dataset with stored log-mels, ids from 1."""

    def store(paths, first=1):
        cache = tmp_path_factory.mktemp("log_mels")
        return store_log_mels(DatasetDict({"all": songs(paths, first)}), tiny_extractor, cache)[0]["all"]

    return store


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Six rendered songs of 15 s, MP3."""
    return sorted(render_deam(tmp_path_factory.mktemp("music"), 6, SECONDS).rglob("*.mp3"))


def write(path, samples, rate=RATE, **options):
    """In blocks, as libsndfile's Vorbis encoder overruns its stack on long ones."""
    options |= {"format": {"mp3": "MP3", "ogg": "OGG", "flac": "FLAC", "wav": "WAV"}[path.suffix[1:]]}
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], **options) as file:
        for start in range(0, len(samples), rate):
            file.write(samples[start : start + rate])
    return path


def quieter(samples, decibels):
    return np.clip(samples * 10 ** (decibels / 20), -1, 1)


LOW_MP3 = {"subtype": "MPEG_LAYER_III", "compression_level": 0.9, "bitrate_mode": "CONSTANT"}
CHANGES = {
    "20 dB quieter": lambda x, folder: write(folder / "a.flac", quieter(x, -20)),
    "6 dB louder, clipped": lambda x, folder: write(folder / "a.wav", quieter(x, 6)),
    "low bitrate MP3": lambda x, folder: write(folder / "a.mp3", x, **LOW_MP3),
    "low quality Vorbis": lambda x, folder: write(folder / "a.ogg", x, subtype="VORBIS", compression_level=0.9),
    "trimmed, quieter and MP3": lambda x, folder: write(
        folder / "a.mp3", quieter(x[int(0.3 * RATE) : -int(0.3 * RATE)], -12), **LOW_MP3
    ),
    "another excerpt, 5 s later": lambda x, folder: write(folder / "a.flac", x[5 * RATE + 123 :]),
    "mono": lambda x, folder: write(folder / "a.flac", x.mean(1, keepdims=True)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_other_songs(music, stored, tmp_path, change):
    samples, rate = soundfile.read(music[2], always_2d=True)
    assert rate == RATE
    copy = CHANGES[change](samples, tmp_path)
    (found,) = find_copies(stored([*music, copy]), 50)
    assert (found.song_id, found.other) == (3, 7) and AGREEMENT <= found.agreement <= 1


def test_different_songs_are_far_from_copies(music, stored, tiny_extractor):
    table = stored(music)
    assert find_copies(table, tiny_extractor.frame_rate) == []
    log_mels = [np.frombuffer(row["log_mel"], np.float16).reshape(row["frames"], -1) for row in table]
    prints = [fingerprint(log_mel, 50) for log_mel in log_mels]
    assert max(agreement(a, b) for i, a in enumerate(prints) for b in prints[:i]) < AGREEMENT - 0.1
    assert all(agreement(signs, signs) == pytest.approx(1, abs=0.2) for signs in prints)


@pytest.mark.stress
def test_no_false_pairs_among_sixty_songs(stored, tmp_path):
    assert find_copies(stored(sorted(render_deam(tmp_path, 60, SECONDS).rglob("*.mp3"))), 50) == []


@real
def test_real_pieces(stored, tmp_path):
    pieces = sorted(path for path in AUDIO.iterdir() if path.suffix in (".mp3", ".ogg"))
    originals, copies = [], []
    for number, path in enumerate(pieces):
        samples, rate = soundfile.read(path, frames=20 * 48000, always_2d=True)
        originals.append(write(tmp_path / f"{number}.flac", samples, rate))
        copies.append(write(tmp_path / f"{number}.mp3", quieter(samples[rate // 3 :], -20), rate, **LOW_MP3))
    assert find_copies(stored(originals), 50) == []
    found = find_copies(stored([*originals, *copies]), 50)
    assert [(pair.song_id, pair.other) for pair in found] == [(1, 5), (2, 6), (3, 7), (4, 8)]


def test_three_copies_and_the_order_of_songs(music, stored, tmp_path):
    samples, _ = soundfile.read(music[0], always_2d=True)
    paths = [*music, *(write(tmp_path / f"{gain}.flac", quieter(samples, gain)) for gain in (-3, -10))]
    table = stored(paths)
    pairs = [(pair.song_id, pair.other) for pair in find_copies(table, 50)]
    assert pairs == [(1, 7), (1, 8), (7, 8)]
    backwards = table.select(range(len(table) - 1, -1, -1))
    assert [(pair.song_id, pair.other) for pair in find_copies(backwards, 50)] == pairs


def test_short_or_steady_sounds_are_copies_only_if_they_are_equal(stored, write_wav, tmp_path):
    notes = [write_wav(tmp_path / f"{hertz}.wav", 8, frequency=hertz) for hertz in (220, 440, 880)]
    short = [write_wav(tmp_path / f"short-{gain}.wav", 2, amplitude=gain) for gain in (0.3, 0.1)]
    silence = write_wav(tmp_path / "silence.wav", 9, amplitude=0)
    table = stored([*notes, *short, silence, write_wav(tmp_path / "again.wav", 8, frequency=440)])
    assert find_copies(table, 50) == [Copies(2, 7, 1.0)]


def test_a_copy_at_another_frame_rate_of_the_front_end(music, stored, tmp_path):
    """The Kaldi front end has 100 frames per second; repeating frames stands for it."""
    log_mel = np.random.default_rng(0).normal(size=(500, 128)).cumsum(0).astype(np.float16)
    fast = np.repeat(log_mel, 2, axis=0)
    assert agreement(fingerprint(log_mel, 50), fingerprint(fast, 100)) > 0.95


class TestLeavingOut:
    def sides(self, **ids):
        whole = songs([f"{key}.mp3" for key in range(1, 9)])
        chosen = {name: whole.select([key - 1 for key in keys]) for name, keys in ids.items()}
        for name, side in chosen.items():
            side.info.description = name
        return DatasetDict(chosen)

    def test_later_sides_keep_their_songs(self, caplog):
        caplog.set_level(logging.WARNING)
        sides = self.sides(train=[1, 2, 3, 4], validation=[5, 6], test=[7, 8])
        copies = [Copies(1, 2, 0.9), Copies(3, 5, 0.9), Copies(4, 8, 0.9), Copies(6, 7, 0.9), Copies(7, 99, 0.9)]
        kept, left_out = leave_out_copies(sides, copies)
        ids = {name: side["song_id"][:] for name, side in kept.items()}
        assert ids == {"train": [1, 2], "validation": [5], "test": [7, 8]}
        assert [(file.song_id, file.path, file.reason) for file in left_out] == [
            (3, "3.mp3", "the same recording as 5, a validation song"),
            (4, "4.mp3", "the same recording as 8, a test song"),
            (6, "6.mp3", "the same recording as 7, a test song"),
        ]
        assert "left out 3 songs: 3 is the same recording as 5, a validation song; 4 is" in caplog.text
        assert kept["test"].info.description == ("test; 3 songs left out, whose recordings are also on another side")

    def test_nothing_crosses(self):
        sides = self.sides(train=[1, 2], validation=[5], test=[8])
        assert leave_out_copies(sides, [Copies(1, 2, 0.9), Copies(1, 3, 0.9)]) == (sides, [])
        assert sides["test"].info.description == "test"
        assert leave_out_copies(self.sides(all=[1, 2]), [Copies(1, 2, 0.9)])[1] == []
