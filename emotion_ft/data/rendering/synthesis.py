"""Music-like audio (chords, melody, bass, bells, drums) whose cues follow valence and arousal over time.

Which cues express which dimension follows Gabrielsson & Lindström (2010, "The role of structure in the musical
expression of emotions") and Eerola, Friberg & Bresin (2013, doi:10.3389/fpsyg.2013.00487): arousal raises tempo,
density, attack, brightness and percussion; valence raises register, consonance, staccato and the major mode, and, to
survive the standardised log-mel, trades a low drone for high bells. Key, instruments, progressions, loudness,
stereo, timing, room and noise vary freely.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.signal import butter, resample_poly, sosfilt

SAMPLE_RATE = 44100  # hertz, of the files
RATE = SAMPLE_RATE // 2  # hertz, of the synthesis
CONTROL_RATE = 10  # hertz, of the curves that drive it
CUES = {
    "valence": ("register", "consonance", "mode", "staccato", "sparkle", "rumble"),
    "arousal": ("tempo", "density", "brightness", "percussion", "attack", "drive"),
}
JITTER = 0.07  # standard deviation of a cue around its label, [-1, 1]; half of the variance is the artist's
MAJOR, MINOR = np.array([0, 2, 4, 5, 7, 9, 11]), np.array([0, 2, 3, 5, 7, 8, 10])
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 0, 4), (0, 5, 1, 4))


def synthesise(
    valence: np.ndarray, arousal: np.ndarray, sound: np.random.Generator, song: np.random.Generator
) -> np.ndarray:
    """Stereo music whose cues follow two label curves.

    Args:
        valence, arousal: (control frames,) in [-1, 1], at `CONTROL_RATE`; they set the length.
        sound: for what an artist keeps: instruments, kit, habits.
        song: for what differs between songs: key, chords, timing, mix.

    Returns:
        (samples, 2), float32 at 44.1 kHz, |x| < 1.
    """
    samples = round(len(valence) * RATE / CONTROL_RATE)
    time = np.arange(len(valence)) / CONTROL_RATE
    cue = _cues(valence, arousal, sound, song)

    # Sixteenth-note steps: the integral of the tempo, 66-165 beats per minute, inverted.
    phase = np.concatenate([[0], np.cumsum(66 * 2.5 ** cue["tempo"] / 60 / CONTROL_RATE)[:-1]])
    starts = np.interp(np.arange(int(phase[-1] * 4) + 1) / 4, phase, time)
    at = {c: np.interp(starts, time, u) for c, u in cue.items()}
    swing = song.choice([0, 0, 0.3]) * np.diff(starts, append=starts[-1] + 0.1) * (np.arange(len(starts)) % 2)
    starts = starts + swing + np.abs(song.normal(0, 0.006, len(starts)))
    band = _Band((starts * RATE).astype(int), samples, sound)

    key = int(song.integers(12))
    progression = PROGRESSIONS[song.integers(len(PROGRESSIONS))]
    harmonic_rhythm = int(song.choice([8, 16, 16]))  # steps per chord
    melody, repeats = 0, song.random((2, 64))
    lively = song.random(len(starts))
    for number in range(len(starts)):
        root = progression[number // harmonic_rhythm % len(progression)]
        cues = {c: values[number] for c, values in at.items()}
        step = _Step(number, cues, key, root, lively[number], repeats[:, number % 64])
        _play_chords(band, step, harmonic_rhythm)
        melody = _play_melody(band, step, melody)
        if repeats[1, number * 7 % 64] < 0.5:
            gain = 0.25 * 10 ** (1.5 * (cues["sparkle"] - 1))
            band.play("bells", number, step.pitch(root + 2 * (number % 4), 90), 3, gain, 0.002, 0.15)
        _play_drums(band, step)
    return _mix(band.tracks, cue, time, sound, song)


def _cues(
    valence: np.ndarray, arousal: np.ndarray, sound: np.random.Generator, song: np.random.Generator
) -> dict[str, np.ndarray]:
    """Every cue over time, (control frames,) in [0, 1]: its label with jitter."""
    cue = {}
    for name, curve in (("valence", valence), ("arousal", arousal)):
        for c in CUES[name]:
            jitter = JITTER * math.sqrt(0.5) * (sound.standard_normal() + song.standard_normal())
            cue[c] = np.clip(0.5 + 0.75 * (curve + jitter), 0, 1)
    return cue


class _Band:
    """An artist's instruments and kit, and the track that each plays, (samples,) float32.

    Args:
        onsets: (steps,) samples at which the steps of the song begin.
        samples: length of the song.
        sound: the artist's.
    """

    def __init__(self, onsets: np.ndarray, samples: int, sound: np.random.Generator):
        self.onsets, self.samples = onsets, samples
        self.lengths = np.diff(onsets, append=samples).clip(1)  # samples from a step to the next
        names = ("chords", "lead", "bass", "bells", "drums", "rumble")
        self.tracks = {name: np.zeros(samples, np.float32) for name in names}
        self.instruments = {name: _instrument(sound) for name in names[:4]}
        self.kit = _kit(sound)
        self.cache: dict[tuple[str, int], np.ndarray] = {}

    def play(
        self,
        name: str,
        step: int,
        pitch: int,
        steps: float,
        gain: float,
        attack: float = 0.01,
        decay: float | None = None,
    ) -> None:
        """Add a note of `steps` steps to an instrument's track."""
        start = self.onsets[step]
        stop = min(int(start + steps * self.lengths[step] * 1.02), self.samples)
        if stop - start >= 64:
            note = _note(self.cache, name, self.instruments[name], pitch, stop - start, attack, decay)
            self.tracks[name][start:stop] += gain * note

    def hit(self, drum: str, step: int, gain: float) -> None:
        """Add a beat to the drums' track."""
        start, shot = self.onsets[step], self.kit[drum]
        stop = min(start + len(shot), self.samples)
        self.tracks["drums"][start:stop] += gain * shot[: stop - start]


class _Step(NamedTuple):
    """One sixteenth-note step of a song.

    Args:
        number: from 0.
        cues: every cue, in [0, 1].
        key: of the song, in semitones.
        root: scale degree of the chord.
        lively: what decides on notes that vary, in [0, 1).
        repeats: (2,) what decides on notes that recur every 64 steps, in [0, 1).
    """

    number: int
    cues: dict[str, float]
    key: int
    root: int
    lively: float
    repeats: np.ndarray

    @property
    def register(self) -> float:
        """The centre of the chords, as a MIDI note number."""
        return 45 + 26 * self.cues["register"]

    @property
    def attack(self) -> float:
        """Seconds."""
        return 0.005 + 0.09 * (1 - self.cues["attack"]) ** 2

    @property
    def length(self) -> float:
        """The share of its time for which a note sounds."""
        return 1 - 0.75 * self.cues["staccato"]

    @property
    def accent(self) -> float:
        return (1, 0.35, 0.7, 0.4)[self.number % 4]

    def pitch(self, degree: int, centre: float) -> int:
        """The MIDI note of a scale degree, in the octave nearest to a centre."""
        scale = MAJOR if self.cues["mode"] > 0.5 else MINOR
        note = self.key + scale[degree % 7]
        return int(note + 12 * round((centre - note) / 12))


def _play_chords(band: _Band, step: _Step, harmonic_rhythm: int) -> None:
    """Chords and bass: on every new chord, and more often with more density."""
    number, root, density = step.number, step.root, step.cues["density"]
    if number % harmonic_rhythm == 0 or (number % 2 == 0 and step.lively < (density - 0.3) * 0.8):
        steps = (harmonic_rhythm if density < 0.4 else 4) * step.length
        for third in (0, 2, 4):
            band.play("chords", number, step.pitch(root + third, step.register), steps, 0.16, step.attack)
        clash = (1 - step.cues["consonance"]) ** 1.5
        if clash > 0.1:  # minor seconds and a tritone against the chord
            base = step.pitch(root, step.register)
            band.play("chords", number, base + 1, steps, 0.2 * clash, step.attack)
            band.play("chords", number, base + 6, steps, 0.14 * clash, step.attack)
    if number % 8 == 0 or (number % 2 == 0 and step.lively > 1.05 - 0.6 * density):
        band.play("bass", number, step.pitch(root, 36 + 6 * step.cues["register"]), 4, 0.3, 0.01, 0.5)


def _play_melody(band: _Band, step: _Step, melody: int) -> int:
    """Perhaps a note of the melody, whose height above the chord is taken and returned."""
    chance, direction = step.repeats
    if chance < (0.12 + 0.6 * step.cues["density"]) * step.accent:
        melody += int(np.sign(direction - 0.5 - 0.08 * melody) * (1 + (step.number % 3 == 0)))
        degree = step.root + 2 * (melody // 2) if step.number % 4 == 0 else step.root + melody
        pitch = step.pitch(degree, step.register + 12 + 1.7 * melody)
        band.play("lead", step.number, pitch, 3 * step.length, 0.26, step.attack / 2, 0.5)
    return melody


def _play_drums(band: _Band, step: _Step) -> None:
    gain = 1.2 * 10 ** (1.5 * (step.cues["percussion"] - 1)) * step.accent
    beat, fill = step.number % 16, step.lively < step.cues["density"]
    if beat in (0, 8) or (beat in (6, 10) and fill):
        band.hit("kick", step.number, gain)
    if beat in (4, 12):
        band.hit("snare", step.number, gain)
    if beat % 2 == 0 or fill:
        band.hit("hat", step.number, gain)


def _instrument(rng: np.random.Generator) -> np.ndarray:
    """A timbre: (2, 30) complex harmonics of the sound, at its attack and afterwards."""
    k = np.arange(1, 31)
    slope = rng.uniform(1, 1.5)
    formants = sum(rng.uniform(0, 3) * np.exp(-(((k - rng.uniform(1, 12)) / 2) ** 2)) for _ in range(2))
    odd = np.where(k % 2 == 0, rng.uniform(0.2, 1), 1)
    harmonics = k**-slope * odd * (1 + formants)
    harmonics = np.stack([harmonics, harmonics * k**-0.7]) * np.exp(2j * np.pi * rng.random(30))
    return harmonics / np.linalg.norm(harmonics[0]) * math.sqrt(2)


def _note(
    cache: dict[tuple[str, int], np.ndarray],
    name: str,
    harmonics: np.ndarray,
    pitch: int,
    samples: int,
    attack: float,
    decay: float | None,
) -> np.ndarray:
    """A note, (samples,), bright at its onset and duller later; decay in seconds, None for a sustained sound."""
    key = (name, pitch)
    if key not in cache or cache[key].shape[1] < samples:
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        count = min(30, int(0.9 * RATE / 2 / frequency))  # no aliases
        spectrum = np.zeros((2, 1025), complex)
        spectrum[:, 1 : count + 1] = harmonics[:, :count] * 1024
        index = (np.arange(max(samples, RATE)) * (2048 * frequency / RATE)).astype(np.int64) % 2048
        cache[key] = np.fft.irfft(spectrum).astype(np.float32)[:, index]
    t = np.arange(samples, dtype=np.float32) / RATE
    bright, dull = cache[key][:, :samples]
    envelope = np.minimum(t / attack, 1) * np.minimum((samples / RATE - t) / 0.02, 1)
    if decay is not None:
        envelope *= np.exp(t / -decay)
    return (dull + np.exp(t * -6) * (bright - dull)) * envelope


def _kit(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Kick, snare and hi-hat, each (samples,) float32."""
    t = np.arange(int(0.25 * RATE)) / RATE
    noise = rng.standard_normal(len(t))
    low = rng.uniform(45, 65)
    kick = np.sin(2 * np.pi * (low * t - 3 * np.exp(-t * 40))) * np.exp(-t * rng.uniform(12, 20))
    body = np.sin(2 * np.pi * rng.uniform(160, 220) * t)
    snare = (0.4 * body + 0.5 * noise) * np.exp(-t * rng.uniform(14, 26))
    high = sosfilt(butter(2, rng.uniform(5000, 7500), "high", fs=RATE, output="sos"), noise)
    hat = 0.5 * high * np.exp(-t * rng.uniform(30, 70))
    return {"kick": kick.astype(np.float32), "snare": snare.astype(np.float32), "hat": hat.astype(np.float32)}


def _mix(
    tracks: dict[str, np.ndarray],
    cue: dict[str, np.ndarray],
    time: np.ndarray,
    sound: np.random.Generator,
    song: np.random.Generator,
) -> np.ndarray:
    """Mix the tracks into a stereo recording, (samples, 2), float32 at 44.1 kHz, |x| < 1."""
    n = len(tracks["rumble"])
    t = np.arange(n, dtype=np.float32) / RATE
    gains = {
        "drone": 0.25 * 10 ** (-1.5 * cue["rumble"]),  # 30 dB
        "highs": 1.5 * 10 ** (-1.3 * (1 - cue["brightness"])),  # 26 dB
        "drive": 1 + 2 * cue["drive"],
        "loudness": 10 ** (0.6 * (cue["drive"] - 1)),  # 12 dB
    }
    moving = {name: np.interp(t, time, gain).astype(np.float32)[:, None] for name, gain in gains.items()}
    for pitch in song.uniform(24, 34, 3):  # a beating cluster of low drones
        tracks["rumble"] += (t * (440 * 2 ** ((pitch - 57) / 12))) % 1 - 0.5
    tracks["rumble"] *= moving["drone"][:, 0]
    level = 10 ** (song.normal(0, 1.5, len(tracks)) / 20)
    bus = {name: gain * track for (name, track), gain in zip(tracks.items(), level, strict=True)}
    low = butter(1, 900, fs=RATE, output="sos")
    tonal = bus["chords"] + bus["lead"] + bus["bass"]
    dark = sosfilt(low, tonal).astype(np.float32)
    tonal = dark + moving["highs"][:, 0] * (tonal - dark) + sosfilt(low, bus["rumble"]).astype(np.float32)
    pan = song.uniform(-0.5, 0.5, 2)
    drums, bells = bus["drums"], bus["bells"]
    dry = [tonal + drums * 0.6 + (1 + side * pan[0]) * bells + side * pan[1] * bus["lead"] for side in (-1, 1)]
    stereo = np.tanh(np.stack(dry, axis=1) * moving["drive"]) * moving["loudness"]
    room = sound.uniform(0.1, 0.45)
    wet = stereo.copy()
    for delay in song.uniform(0.01, 0.12, 5):  # early reflections
        d = int(delay * RATE)
        wet[d:] += room * math.exp(-12 * delay) * stereo[:-d, ::-1]
    wet += 10 ** (song.uniform(-60, -52) / 20) * song.standard_normal((n, 1), dtype=np.float32)
    wet = resample_poly(wet, 2, 1, axis=0)
    return (wet * (10 ** (song.uniform(-16, -1) / 20) / np.abs(wet).max())).astype(np.float32)
