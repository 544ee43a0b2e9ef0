import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from emotion_ft.data.audio import AudioError, read_audio, read_pieces
from emotion_ft.modeling import audio_ast_emotion as reader

MUSIC = Path(__file__).resolve().parents[3] / "shared" / "audio"
FORMATS = {
    "wav": {},
    "flac": {},
    "mp3": {},
    "ogg": {},
    "aiff": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}


def one_shot(path, sampling_rate=16000):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, sampling_rate, quality="HQ")


def noise(shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("piece_seconds", [0.1234, 20.0])
def test_pieces_join_to_what_decoding_in_one_go_gives(tmp_path, monkeypatch, suffix, piece_seconds):
    path, rate = tmp_path / f"song.{suffix}", 48000 if suffix == "opus" else 44100
    soundfile.write(path, noise((2 * rate, 2)), rate, **FORMATS[suffix])
    monkeypatch.setattr(reader, "PIECE_SECONDS", piece_seconds)
    pieces = list(read_pieces(path))
    assert len(pieces) > (15 if piece_seconds < 1 else 0)
    np.testing.assert_allclose(np.concatenate(pieces), one_shot(path), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_channels_are_averaged(tmp_path, channels, rate):
    samples = noise((rate, channels))
    soundfile.write(tmp_path / "song.wav", samples, rate, subtype="FLOAT")
    expected = soxr.resample(samples.mean(axis=1), rate, 16000, quality="HQ")
    waveform = read_audio(tmp_path / "song.wav")
    assert waveform.dtype == np.float32 and waveform.shape == (16000,)
    np.testing.assert_allclose(waveform, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
def test_a_sine_keeps_length_frequency_and_amplitude(tmp_path, write_wav, rate):
    path = write_wav(tmp_path / "sine.wav", 3.0, rate, frequency=1000, amplitude=0.3, subtype="FLOAT")
    waveform = read_audio(path)
    assert abs(len(waveform) - 48000) <= 1
    second = waveform[16000:32000]  # 1 Hz per bin, away from the edges
    spectrum = np.abs(np.fft.rfft(second)) / 8000
    assert spectrum.argmax() == 1000
    assert spectrum[1000] == pytest.approx(0.3, rel=1e-3)
    assert np.delete(spectrum, 1000).max() < 1e-4


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_the_same_music(tmp_path, write_wav, suffix):
    path = write_wav(tmp_path / f"sine.{suffix}", 3.0, 48000, channels=2, frequency=500, **FORMATS[suffix])
    waveform = read_audio(path)
    assert abs(len(waveform) - 48000) < 0.1 * 16000
    spectrum = np.abs(np.fft.rfft(waveform[16000:32000])) / 8000
    assert spectrum[[500, 1000]] == pytest.approx(0.15, rel=0.03)  # two sines of 0.3, one per channel, averaged


def test_silence_is_music(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros((44100, 2)), 44100)
    waveform = read_audio(tmp_path / "silence.wav")
    assert waveform.shape == (16000,) and not waveform.any()


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg"])
def test_a_truncated_file_gives_what_is_left(tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    soundfile.write(whole, noise(4 * 44100), 44100)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    waveform = read_audio(cut)
    assert 0.35 * 64000 < len(waveform) < 0.55 * 64000
    kept = len(waveform) - 2000
    np.testing.assert_allclose(waveform[:kept], read_audio(whole)[:kept], atol=1e-3)


def cut_in_half(path):
    soundfile.write(path, noise(4 * 44100), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_value(value):
    def write(path):
        samples = noise(32000)
        samples[20000] = value
        soundfile.write(path, samples, 16000, subtype="FLOAT")

    return write


BAD = {
    "text.mp3": (lambda path: path.write_text("This is no music.\n" * 100), "cannot be decoded"),
    "text.wav": (lambda path: path.write_text("This is no music.\n" * 100), "cannot be decoded"),
    "text.raw": (lambda path: path.write_text("This is no music.\n" * 100), "cannot be decoded"),
    "zero_bytes.mp3": (Path.touch, "cannot be decoded|empty"),
    "zero_bytes.wav": (Path.touch, "cannot be decoded|empty"),
    "header_only.wav": (lambda path: soundfile.write(path, np.empty(0), 16000), "no samples"),
    "header_only.ogg": (lambda path: soundfile.write(path, np.empty(0), 44100), "no samples"),
    "header_only.mp3": (lambda path: soundfile.write(path, np.empty(0), 44100), "cannot be decoded|empty"),
    "truncated.flac": (cut_in_half, "cannot be decoded.*lost sync"),
    "nan.wav": (with_value(np.nan), "NaN or infinite"),
    "inf.wav": (with_value(np.inf), "NaN or infinite"),
    "short.wav": (lambda path: soundfile.write(path, noise(15999), 16000), "too short: 1.00 s, at least 1 s"),
    "shorter.ogg": (lambda path: soundfile.write(path, noise(8000), 16000), "too short: 0.50 s, at least 1 s"),
    "missing.mp3": (lambda path: None, "no such file"),
    "folder.mp3": (Path.mkdir, "no such file|not a file|folder|directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_why(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(AudioError, match=reason) as raised:
        list(read_pieces(tmp_path / name, min_seconds=1.0))
    message = str(raised.value)
    assert not message.endswith(".") and str(tmp_path) not in message
    if (tmp_path / name).is_file():
        assert "does not exist" not in message


def test_the_shortest_allowed_file_is_read(tmp_path):
    soundfile.write(tmp_path / "second.wav", noise(44100), 44100)
    assert sum(map(len, read_pieces(tmp_path / "second.wav", min_seconds=1.0))) == 16000


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(seconds):
        soundfile.write(tmp_path / "long.wav", np.zeros((8000 * seconds, 2), np.int16), 8000)
        tracemalloc.start()
        try:
            for piece in read_pieces(tmp_path / "long.wav"):
                assert len(piece) <= 21 * 16000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, long = peak(60), peak(900)
    assert long < 1.1 * short
    assert long < 900 * 16000 * 4 / 4  # a quarter of the waveform


@pytest.mark.skipif(not MUSIC.is_dir(), reason="no real music at hand")
def test_real_music_is_what_decoding_in_one_go_gives():
    for path in (path for path in MUSIC.iterdir() if path.suffix in (".mp3", ".ogg")):
        waveform = read_audio(path)
        assert np.abs(waveform).max() > 0.05
        np.testing.assert_allclose(waveform, one_shot(path), atol=1e-6)
