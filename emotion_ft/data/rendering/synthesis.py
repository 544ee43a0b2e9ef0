"""Music-like audio (chords, melody, bass, bells, drums) whose cues follow valence and arousal over time.

Which cue speaks for which dimension follows Gabrielsson & Lindström (2010, "The role of structure in the musical
expression of emotions") and Eerola, Friberg & Bresin (2013, doi:10.3389/fpsyg.2013.00487): arousal raises tempo,
density, attack, brightness and percussion; valence raises register, consonance, staccato and the major mode, and, so
that it survives the standardised log-mel, trades a low drone for high bells. Key, instruments, progressions, loudness,
stereo, timing, room and noise vary freely.
"""

import math

import numpy as np
from scipy.signal import butter, resample_poly, sosfilt

SAMPLE_RATE = 44100  # hertz, of the files
RATE = SAMPLE_RATE // 2  # hertz, of the synthesis
CONTROL_RATE = 10  # hertz, of the curves that drive it
CUES = {
    "valence": ("register", "consonance", "mode", "staccato", "sparkle", "rumble"),
    "arousal": ("tempo", "density", "brightness", "percussion", "attack", "drive"),
}
JITTER = 0.07  # standard deviation of a cue around its label, [-1, 1]; half its variance belongs to the artist
MAJOR, MINOR = np.array([0, 2, 4, 5, 7, 9, 11]), np.array([0, 2, 3, 5, 7, 8, 10])
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 0, 4), (0, 5, 1, 4))


def synthesise(valence, arousal, sound, song):
    """Stereo music whose cues follow two label curves.

    valence, arousal: (control frames,) in [-1, 1], at `CONTROL_RATE`; they set the length. sound, song: NumPy
    Generators for what an artist keeps (instruments, kit, habits) and for what changes from song to song (key, chords,
    timing, mix).
    Returns (samples, 2), float32 at 44.1 kHz, |x| < 1.
    """
    n = round(len(valence) * RATE / CONTROL_RATE)
    time = np.arange(len(valence)) / CONTROL_RATE
    cue = {}
    for name, curve in (("valence", valence), ("arousal", arousal)):
        for c in CUES[name]:
            jitter = JITTER * math.sqrt(0.5) * (sound.standard_normal() + song.standard_normal())
            cue[c] = np.clip(0.5 + 0.75 * (curve + jitter), 0, 1)

    # Sixteenth-note steps: the integral of the tempo, 66-165 beats a minute, inverted.
    phase = np.concatenate([[0], np.cumsum(66 * 2.5 ** cue["tempo"] / 60 / CONTROL_RATE)[:-1]])
    starts = np.interp(np.arange(int(phase[-1] * 4) + 1) / 4, phase, time)
    at = {c: np.interp(starts, time, u) for c, u in cue.items()}
    swing = song.choice([0, 0, 0.3]) * np.diff(starts, append=starts[-1] + 0.1) * (np.arange(len(starts)) % 2)
    starts = starts + swing + np.abs(song.normal(0, 0.006, len(starts)))
    onsets = (starts * RATE).astype(int)
    length = np.diff(onsets, append=n).clip(1)  # samples from a step to the next

    bus = {name: np.zeros(n, np.float32) for name in ("chords", "lead", "bass", "bells", "drums", "rumble")}
    instrument = {name: _instrument(sound) for name in ("chords", "lead", "bass", "bells")}
    kit = _kit(sound)
    cache = {}

    def play(name, step, pitch, steps, gain, attack=0.01, decay=None):
        start = onsets[step]
        stop = min(int(start + steps * length[step] * 1.02), n)
        if stop - start < 64:
            return
        samples = stop - start
        bus[name][start:stop] += gain * _note(cache, name, instrument[name], pitch, samples, attack, decay)

    key = int(song.integers(12))
    progression = PROGRESSIONS[song.integers(len(PROGRESSIONS))]
    harmonic_rhythm = int(song.choice([8, 16, 16]))  # steps a chord
    melody, repeats = 0, song.random((2, 64))
    lively = song.random(len(starts))
    accents = np.tile([1, 0.35, 0.7, 0.4], len(starts) // 4 + 1)
    for step in range(len(starts)):
        register = 45 + 26 * at["register"][step]  # centre of the chords, MIDI note number
        scale = MAJOR if at["mode"][step] > 0.5 else MINOR
        root = progression[step // harmonic_rhythm % len(progression)]
        attack = 0.005 + 0.09 * (1 - at["attack"][step]) ** 2
        density = at["density"][step]
        short = 1 - 0.75 * at["staccato"][step]

        def pitch(degree, centre, scale=scale):
            """The MIDI note of a scale degree, in the octave nearest to a centre."""
            note = key + scale[degree % 7]
            return int(note + 12 * round((centre - note) / 12))

        if step % harmonic_rhythm == 0 or (step % 2 == 0 and lively[step] < (density - 0.3) * 0.8):
            held = harmonic_rhythm if density < 0.4 else 4
            for third in (0, 2, 4):
                play("chords", step, pitch(root + third, register), held * short, 0.16, attack)
            clash = (1 - at["consonance"][step]) ** 1.5
            if clash > 0.1:  # minor seconds and a tritone against the chord
                play("chords", step, pitch(root, register) + 1, held * short, 0.2 * clash, attack)
                play("chords", step, pitch(root, register) + 6, held * short, 0.14 * clash, attack)
        if step % 8 == 0 or (step % 2 == 0 and lively[step] > 1.05 - 0.6 * density):
            play("bass", step, pitch(root, 36 + 6 * at["register"][step]), 4, 0.3, 0.01, 0.5)
        if repeats[0, step % 64] < (0.12 + 0.6 * density) * accents[step]:
            melody += int(np.sign(repeats[1, step % 64] - 0.5 - 0.08 * melody) * (1 + (step % 3 == 0)))
            degree = root + 2 * (melody // 2) if step % 4 == 0 else root + melody
            play("lead", step, pitch(degree, register + 12 + 1.7 * melody), 3 * short, 0.26, attack / 2, 0.5)
        if repeats[1, (step * 7) % 64] < 0.5:
            play(
                "bells",
                step,
                pitch(root + 2 * (step % 4), 90),
                3,
                0.25 * 10 ** (1.5 * (at["sparkle"][step] - 1)),
                0.002,
                0.15,
            )
        power = 1.2 * 10 ** (1.5 * (at["percussion"][step] - 1))
        beat = step % 16
        for drum, hit in (
            ("kick", beat in (0, 8) or (beat in (6, 10) and lively[step] < density)),
            ("snare", beat in (4, 12)),
            ("hat", beat % 2 == 0 or lively[step] < density),
        ):
            if hit:
                shot = kit[drum]
                stop = min(onsets[step] + len(shot), n)
                bus["drums"][onsets[step] : stop] += power * accents[step] * shot[: stop - onsets[step]]

    return _mix(bus, cue, time, n, sound, song)


def _instrument(rng):
    """A timbre: (2, 30) complex harmonics of the sound at its attack and after it."""
    k = np.arange(1, 31)
    slope = rng.uniform(1, 1.5)
    formants = sum(rng.uniform(0, 3) * np.exp(-(((k - rng.uniform(1, 12)) / 2) ** 2)) for _ in range(2))
    odd = np.where(k % 2 == 0, rng.uniform(0.2, 1), 1)
    harmonics = k**-slope * odd * (1 + formants)
    harmonics = np.stack([harmonics, harmonics * k**-0.7]) * np.exp(2j * np.pi * rng.random(30))
    return harmonics / np.linalg.norm(harmonics[0]) * math.sqrt(2)


def _note(cache, name, harmonics, pitch, samples, attack, decay):
    """A note, (samples,) float32: bright at its onset, duller later; decay in seconds, None for a held sound."""
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


def _kit(rng):
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


def _mix(bus, cue, time, n, sound, song):
    """The instruments' tracks as one stereo recording, (samples, 2), float32 at 44.1 kHz, |x| < 1."""
    t = np.arange(n, dtype=np.float32) / RATE
    moving = {
        "drone": 0.25 * 10 ** (-1.5 * cue["rumble"]),  # 30 dB
        "highs": 1.5 * 10 ** (-1.3 * (1 - cue["brightness"])),  # 26 dB
        "drive": 1 + 2 * cue["drive"],
        "loudness": 10 ** (0.6 * (cue["drive"] - 1)),  # 12 dB
    }
    moving = {name: np.interp(t, time, gain).astype(np.float32)[:, None] for name, gain in moving.items()}
    for pitch in song.uniform(24, 34, 3):  # a beating cluster of low drones
        bus["rumble"] += (t * (440 * 2 ** ((pitch - 57) / 12))) % 1 - 0.5
    bus["rumble"] *= moving["drone"][:, 0]
    level = 10 ** (song.normal(0, 1.5, len(bus)) / 20)
    bus = {name: gain * track for (name, track), gain in zip(bus.items(), level, strict=True)}
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
