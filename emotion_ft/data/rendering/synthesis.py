"""Music-like audio (chords, melody, bass, bells, drums) whose cues follow valence and arousal over time.

Which cues express which dimension follows Gabrielsson & Lindström (2010, "The role of structure in the musical
expression of emotions") and Eerola, Friberg & Bresin (2013, doi:10.3389/fpsyg.2013.00487): arousal raises tempo,
density, attack, brightness and percussion; valence raises register, consonance, staccato and the major mode, and, to
survive the standardised log-mel, trades a low drone for high bells. Key, instruments, progressions, loudness,
stereo, timing, room and noise vary freely.
"""

import math

import numpy as np
from numpy.random import Generator
from scipy.signal import butter, resample_poly, sosfilt

SAMPLE_RATE = 44100  # hertz, of the files
RATE = SAMPLE_RATE // 2  # hertz, of the synthesis
CONTROL_RATE = 10  # hertz, of the curves that drive it
CUES = {
    "valence": ("register", "consonance", "mode", "staccato", "sparkle", "rumble"),
    "arousal": ("tempo", "density", "brightness", "percussion", "attack", "drive"),
}
JITTER = 0.07  # standard deviation of a cue around its label, [-1, 1]; half of the variance is the artist's
Arrays = dict[str, np.ndarray]
MAJOR, MINOR = np.array([0, 2, 4, 5, 7, 9, 11]), np.array([0, 2, 3, 5, 7, 8, 10])
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 0, 4), (0, 5, 1, 4))


def synthesise(valence: np.ndarray, arousal: np.ndarray, sound: Generator, song: Generator) -> np.ndarray:
    """Stereo music whose cues follow two label curves.

    Args:
        valence, arousal: (control frames,) in [-1, 1], at `CONTROL_RATE`; they set the length.
        sound: for what an artist keeps: instruments, kit, habits.
        song: for what differs between songs: key, chords, timing, mix.

    Returns:
        (samples, 2), float32 at 44.1 kHz, |x| < 1.
    """
    cue = {}
    for name, curve in (("valence", valence), ("arousal", arousal)):
        for c in CUES[name]:
            jitter = JITTER * math.sqrt(0.5) * (sound.standard_normal() + song.standard_normal())
            cue[c] = np.clip(0.5 + 0.75 * (curve + jitter), 0, 1)
    time = np.arange(len(valence)) / CONTROL_RATE
    tracks = _Performance(cue, time, sound, song).play()
    return _mix(tracks, cue, time, sound, song)


class _Performance:
    """A song as an artist plays it, one sixteenth-note step after another, with a track for each instrument."""

    def __init__(self, cue: Arrays, time: np.ndarray, sound: Generator, song: Generator):
        # The steps' starts: the integral of the tempo, 66-165 beats per minute, inverted.
        phase = np.concatenate([[0], np.cumsum(66 * 2.5 ** cue["tempo"] / 60 / CONTROL_RATE)[:-1]])
        starts = np.interp(np.arange(int(phase[-1] * 4) + 1) / 4, phase, time)
        self.at = {c: np.interp(starts, time, values) for c, values in cue.items()}
        swing = song.choice([0, 0, 0.3]) * np.diff(starts, append=starts[-1] + 0.1) * (np.arange(len(starts)) % 2)
        starts = starts + swing + np.abs(song.normal(0, 0.006, len(starts)))
        self.samples = round(len(time) * RATE / CONTROL_RATE)
        self.onsets = (starts * RATE).astype(int)
        self.lengths = np.diff(self.onsets, append=self.samples).clip(1)  # samples from a step to the next
        self.instruments = {name: _Instrument(sound) for name in ("chords", "lead", "bass", "bells")}
        self.kit = _kit(sound)
        self.tracks = {name: np.zeros(self.samples, np.float32) for name in (*self.instruments, "drums", "rumble")}
        self.key = int(song.integers(12))
        self.progression = PROGRESSIONS[song.integers(len(PROGRESSIONS))]
        self.harmonic_rhythm = int(song.choice([8, 16, 16]))  # steps per chord
        self.melody = 0  # scale degrees above the chord
        self.repeats = song.random((2, 64))  # decide on notes that recur every 64 steps
        self.lively = song.random(len(starts))  # decide on notes that do not
        self.accents = np.tile([1, 0.35, 0.7, 0.4], len(starts) // 4 + 1)
        self.register = [45 + 26 * register for register in self.at["register"]]  # centre of the chords, MIDI notes
        self.attack = [0.005 + 0.09 * (1 - attack) ** 2 for attack in self.at["attack"]]  # seconds
        self.sounding = [1 - 0.75 * staccato for staccato in self.at["staccato"]]  # share of a note's length

    def play(self) -> Arrays:
        """The tracks, (samples,) float32 each; "rumble" is left silent."""
        for step in range(len(self.onsets)):
            root = self.progression[step // self.harmonic_rhythm % len(self.progression)]
            self._play_chords(step, root)
            self._play_melody(step, root)
            if self.repeats[1, (step * 7) % 64] < 0.5:
                gain = 0.25 * 10 ** (1.5 * (self.at["sparkle"][step] - 1))
                self._note("bells", step, self._pitch(step, root + 2 * (step % 4), 90), 3, gain, 0.002, 0.15)
            self._play_drums(step)
        return self.tracks

    def _play_chords(self, step: int, root: int) -> None:
        """Chords and bass."""
        density = self.at["density"][step]
        if step % self.harmonic_rhythm == 0 or (step % 2 == 0 and self.lively[step] < (density - 0.3) * 0.8):
            steps = (self.harmonic_rhythm if density < 0.4 else 4) * self.sounding[step]
            for third in (0, 2, 4):
                pitch = self._pitch(step, root + third, self.register[step])
                self._note("chords", step, pitch, steps, 0.16, self.attack[step])
            clash = (1 - self.at["consonance"][step]) ** 1.5
            if clash > 0.1:  # minor seconds and a tritone against the chord
                pitch = self._pitch(step, root, self.register[step])
                self._note("chords", step, pitch + 1, steps, 0.2 * clash, self.attack[step])
                self._note("chords", step, pitch + 6, steps, 0.14 * clash, self.attack[step])
        if step % 8 == 0 or (step % 2 == 0 and self.lively[step] > 1.05 - 0.6 * density):
            pitch = self._pitch(step, root, 36 + 6 * self.at["register"][step])
            self._note("bass", step, pitch, 4, 0.3, 0.01, 0.5)

    def _play_melody(self, step: int, root: int) -> None:
        chance, direction = self.repeats[:, step % 64]
        if chance < (0.12 + 0.6 * self.at["density"][step]) * self.accents[step]:
            self.melody += int(np.sign(direction - 0.5 - 0.08 * self.melody) * (1 + (step % 3 == 0)))
            degree = root + 2 * (self.melody // 2) if step % 4 == 0 else root + self.melody
            pitch = self._pitch(step, degree, self.register[step] + 12 + 1.7 * self.melody)
            self._note("lead", step, pitch, 3 * self.sounding[step], 0.26, self.attack[step] / 2, 0.5)

    def _play_drums(self, step: int) -> None:
        gain = 1.2 * 10 ** (1.5 * (self.at["percussion"][step] - 1)) * self.accents[step]
        beat, fill = step % 16, self.lively[step] < self.at["density"][step]
        kick = beat in (0, 8) or (beat in (6, 10) and fill)
        for drum, hit in (("kick", kick), ("snare", beat in (4, 12)), ("hat", beat % 2 == 0 or fill)):
            if hit:
                start, shot = self.onsets[step], self.kit[drum]
                stop = min(start + len(shot), self.samples)
                self.tracks["drums"][start:stop] += gain * shot[: stop - start]

    def _pitch(self, step: int, degree: int, centre: float) -> int:
        """The MIDI note of a scale degree, in the octave nearest to a centre."""
        note = self.key + (MAJOR if self.at["mode"][step] > 0.5 else MINOR)[degree % 7]
        return int(note + 12 * round((centre - note) / 12))

    def _note(
        self, name: str, step: int, pitch: int, steps: float, gain: float, attack: float, decay: float | None = None
    ) -> None:
        """Add a note of so many steps to an instrument's track."""
        start = self.onsets[step]
        stop = min(int(start + steps * self.lengths[step] * 1.02), self.samples)
        if stop - start >= 64:
            self.tracks[name][start:stop] += gain * self.instruments[name].note(pitch, stop - start, attack, decay)


class _Instrument:
    """A timbre, bright at the onset of a note and duller later."""

    def __init__(self, rng: Generator):
        k = np.arange(1, 31)
        slope = rng.uniform(1, 1.5)
        formants = sum(rng.uniform(0, 3) * np.exp(-(((k - rng.uniform(1, 12)) / 2) ** 2)) for _ in range(2))
        odd = np.where(k % 2 == 0, rng.uniform(0.2, 1), 1)
        harmonics = k**-slope * odd * (1 + formants)
        harmonics = np.stack([harmonics, harmonics * k**-0.7]) * np.exp(2j * np.pi * rng.random(30))
        self.harmonics = harmonics / np.linalg.norm(harmonics[0]) * math.sqrt(2)  # (2, 30): bright, dull
        self.waves: dict[int, np.ndarray] = {}  # by pitch, (2, samples)

    def note(self, pitch: int, samples: int, attack: float, decay: float | None) -> np.ndarray:
        """(samples,); attack and decay in seconds, None for a sustained sound."""
        if pitch not in self.waves or self.waves[pitch].shape[1] < samples:
            frequency = 440 * 2 ** ((pitch - 69) / 12)
            count = min(30, int(0.9 * RATE / 2 / frequency))  # no aliases
            spectrum = np.zeros((2, 1025), complex)
            spectrum[:, 1 : count + 1] = self.harmonics[:, :count] * 1024
            index = (np.arange(max(samples, RATE)) * (2048 * frequency / RATE)).astype(np.int64) % 2048
            self.waves[pitch] = np.fft.irfft(spectrum).astype(np.float32)[:, index]
        t = np.arange(samples, dtype=np.float32) / RATE
        bright, dull = self.waves[pitch][:, :samples]
        envelope = np.minimum(t / attack, 1) * np.minimum((samples / RATE - t) / 0.02, 1)
        if decay is not None:
            envelope *= np.exp(t / -decay)
        return (dull + np.exp(t * -6) * (bright - dull)) * envelope


def _kit(rng: Generator) -> Arrays:
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


def _mix(tracks: Arrays, cue: Arrays, time: np.ndarray, sound: Generator, song: Generator) -> np.ndarray:
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
