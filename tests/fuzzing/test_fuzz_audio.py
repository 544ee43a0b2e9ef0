"""Damaged and absurd audio files: a waveform that keeps the contract, or an `AudioError`."""

import io
import struct
import sys

import lameenc
import numpy as np
import pytest
import soundfile
from fuzz import bounds, damaged, fuzz, one_line
from hypothesis import strategies as st

from emotion_ft.data import audio
from emotion_ft.data.audio import AudioError, read_pieces
from emotion_ft.modeling import audio_ast_emotion as reader

pytestmark = pytest.mark.stress

RATE = 16000
FORMATS = {
    "wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "adpcm.wav": {"subtype": "MS_ADPCM"},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "aiff": {},
}


def rendered(seconds=0.25, channels=2):
    """The same quarter of a second in every format."""
    rng = np.random.default_rng(0)
    samples = 0.2 * np.sin(np.arange(int(seconds * RATE))[:, None] * [0.05, 0.11]) + 0.01 * rng.standard_normal((1, 2))
    samples = samples[:, :channels]
    files = {}
    for name, options in FORMATS.items():
        file = io.BytesIO()
        soundfile.write(file, samples, RATE, **{"format": name.rpartition(".")[2], **options})
        files[name] = file.getvalue()
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_in_sample_rate(RATE)
    encoder.set_channels(channels)
    files["mp3"] = bytes(encoder.encode((samples * 32767).astype("<i2").tobytes()) + encoder.flush())
    return files


def _crc_table():
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


CRC = _crc_table()


def signed(data, serial=None):
    """Ogg pages with checksums that fit, so that the damage behind them is read; `serial` replaces a random number."""
    data, page = bytearray(data), -1
    while 0 <= (page := data.find(b"OggS", page + 1)) < len(data) - 27:
        lengths = data[page + 27 : page + 27 + data[page + 26]]
        end = page + 27 + len(lengths) + sum(lengths)
        if serial is not None:
            data[page + 14 : page + 18] = serial
        data[page + 22 : page + 26] = bytes(4)
        value = 0
        for byte in data[page:end]:
            value = (value << 8 & 0xFFFFFFFF) ^ CRC[value >> 24 ^ byte]
        data[page + 22 : page + 26] = struct.pack("<I", value)
    return bytes(data)


FILES = {name: signed(data, b"song") for name, data in rendered().items()}


def keeps_the_contract(pieces):
    pieces = list(pieces)
    assert all(piece.ndim == 1 and piece.dtype == np.float32 for piece in pieces)
    assert all(np.isfinite(piece).all() for piece in pieces)
    assert sum(map(len, pieces)) <= RATE * reader.MAX_SECONDS + 1


@pytest.fixture
def read(tmp_path):
    """`read(name, data)`: `data` as a file, through the reader."""

    def read(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        try:
            keeps_the_contract(read_pieces(path, RATE))
        except AudioError as error:
            one_line(str(error), longest=200)
            assert "malloc" not in str(error)

    return read


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        *zip(["wav", "flac", "mp3", "aiff"], [1200, 900, 900, 900], strict=True),
        *zip(["float.wav", "adpcm.wav", "ogg", "opus"], [800, 600, 700, 700], strict=True),
    ],
)
def test_damaged(read, name, inputs):
    sign = signed if name in ("ogg", "opus") else bytes
    fuzz(f"audio, {name}", inputs, lambda data: read(f"song.{name}", sign(data)), damaged([FILES[name]]))


def test_anything_under_any_name(read):
    """Bytes at random, one format's start with another's rest, under suffixes that libsndfile has ideas about."""
    names = st.sampled_from(["a.wav", "a.mp3", "a.raw", "a.vox", "a.gsm", "a.au", "a", "a.xi", "a.sd2"])
    spliced = st.builds(
        lambda first, second, at: FILES[first][:at] + FILES[second][at:],
        st.sampled_from(list(FILES)),
        st.sampled_from(list(FILES)),
        st.integers(0, 400),
    )
    fuzz("audio, anything", 600, read, names, st.one_of(st.binary(max_size=300), spliced))


class TestPipelineInputs:
    """What a pipeline is given besides paths."""

    def test_bytes(self, monkeypatch):
        printed = []  # in a callback of libsndfile an exception is printed and lost
        monkeypatch.setattr(sys, "unraisablehook", printed.append)

        def check(data):
            try:
                keeps_the_contract(reader.read_pieces(signed(data), RATE, 0.0))
            except ValueError as error:
                one_line(str(error), longest=200)
            assert not printed

        fuzz("pipeline, bytes", 1200, check, damaged(list(FILES.values())))

    def test_waveforms(self):
        numbers = st.one_of(
            st.integers(-(10**20), 10**20), st.floats(), st.sampled_from([1e300, "16000", None, True, RATE, 2**31])
        )
        kinds = ["f2", "f4", "f8", "i2", "u1", "c8", "?", "O", "U3", "M8[s]"]
        values = st.lists(st.one_of(st.floats(-1, 1), st.floats()), max_size=3)

        def check(values, kind, rate, wrapped, shape):
            with np.errstate(all="ignore"):
                try:
                    waveform = np.array(values * 40).astype(kind)
                except (ValueError, TypeError):
                    waveform = np.zeros(3, kind)
            waveform = waveform[None] if shape else waveform
            try:
                keeps_the_contract(reader.read_pieces({wrapped: waveform, "sampling_rate": rate}, RATE, 0.0))
            except ValueError as error:
                one_line(str(error), longest=200)

        wrapped = st.sampled_from(["raw", "array", "path"])
        fuzz("pipeline, waveforms", 800, check, values, st.sampled_from(kinds), numbers, wrapped, st.booleans())


def header(data, at, number, size=4, order="little"):
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def flac_of(samples, rate=RATE):
    """STREAMINFO packs 20 bits of rate, 3 of channels, 5 of depth, 36 of length."""
    packed = int.from_bytes(FILES["flac"][18:26], "big")
    packed = packed & ~((1 << 36) - 1 | ((1 << 20) - 1) << 44) | samples | rate << 44
    return header(FILES["flac"], 18, packed, 8, "big")


ABSURD = {
    "1 Hz": ("wav", header(FILES["wav"], 24, 1), "sampling rate 1 Hz: 1000 to 768000 Hz"),
    "2^31 - 1 Hz": ("wav", header(FILES["wav"], 24, 2**31 - 1), "sampling rate 2147483647 Hz"),
    "1000 channels": ("wav", header(header(FILES["wav"], 22, 1000, 2), 32, 2000, 2), "1000 channels: at most 64"),
    "no length": ("flac", flac_of(0), "cannot be decoded: its header does not say how long it is"),
    "a month of FLAC": ("flac", flac_of(2**36 - 1), "too long: 1193.0 h, at most 6 h can be read; cut it"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_headers_are_refused(case, tmp_path):
    suffix, data, reason = ABSURD[case]
    path = tmp_path / f"song.{suffix}"
    path.write_bytes(data)
    with bounds(seconds=0.5, megabytes=64):
        with pytest.raises(AudioError, match=f"^{reason[:40]}"):
            list(read_pieces(path))
        for given in (path, data):
            with pytest.raises(ValueError, match=reason[:40]):
                list(reader.read_pieces(given, RATE, 1.0))


@pytest.mark.parametrize("module", [audio, reader])
def test_a_position_behind_the_end(module, monkeypatch, tmp_path):
    """Where libsndfile is after Opus with a gap and a broken packet; soundfile then asks for less than no samples."""

    class Astray(soundfile.SoundFile):
        def tell(self):
            return super().tell() + 728 * (super().tell() == self.frames)

    (tmp_path / "song.wav").write_bytes(FILES["wav"])
    monkeypatch.setattr(soundfile, "SoundFile", Astray)
    assert sum(map(len, module.read_pieces(tmp_path / "song.wav", RATE, 0.0))) == RATE // 4


@pytest.mark.parametrize("module", [audio, reader])
def test_decompression_bombs(module, tmp_path):
    """Hours of silence in little space, and the same under a header that owns up to a second of them."""
    path, samples = tmp_path / "bomb.flac", 7 * 3600 * 1000
    soundfile.write(path, np.zeros(samples, np.int16), 1000)
    data = path.read_bytes()
    assert len(data) < samples / 100
    with bounds(seconds=0.5, megabytes=64), pytest.raises(ValueError, match=r"too long: 7.0 h, at most 6 h"):
        list(module.read_pieces(path, RATE, 0.0))
    path.write_bytes(header(data, 18, int.from_bytes(data[18:26], "big") - samples + 1000, 8, "big"))
    with bounds(seconds=0.5, megabytes=64):
        assert sum(map(len, module.read_pieces(path, RATE, 0.0))) == RATE


def test_as_many_channels_as_allowed_in_flat_memory(tmp_path):
    path = tmp_path / "wide.wav"
    soundfile.write(path, np.zeros((20 * 96000, 64), np.int16), 96000, subtype="PCM_U8")
    with bounds(seconds=20, megabytes=150):  # as floats, all of it is half a gigabyte
        assert sum(map(len, read_pieces(path))) == 20 * RATE
        assert sum(map(len, reader.read_pieces(path, RATE, 0.0))) == 20 * RATE


@pytest.mark.parametrize("amplitude", [3e9, 1e30, 3e38])
def test_a_power_beyond_float32_is_refused(amplitude, tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full((RATE, 2), amplitude, np.float32), RATE, subtype="FLOAT")
    for pieces in (read_pieces(path), reader.read_pieces(path, RATE, 0.0)):
        with pytest.raises(ValueError, match="NaN or infinite samples, or some beyond ±2147483648"):
            list(pieces)


def test_names_that_no_file_can_have(tmp_path):
    for name in ("x" * 300 + ".wav", "a\0b.wav", "/dev/null", str(tmp_path)):
        with pytest.raises(AudioError):
            list(read_pieces(tmp_path / name))
        with pytest.raises(ValueError, match=r"cannot be opened|no such file|not a file"):
            list(reader.read_pieces(tmp_path / name, RATE, 0.0))
