"""Rendered songs: in DEAM's layout to the byte, reproducible, resumable, and following their labels audibly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile

from emotion_ft.data.collections.annotations import read_artists, read_dynamic, read_static
from emotion_ft.data.collections.csv_collection import load_csv
from emotion_ft.data.collections.deam import load_deam, load_songs
from emotion_ft.data.collections.exchange import repair
from emotion_ft.data.files import RENDER_SETTINGS
from emotion_ft.data.rendering import songs
from emotion_ft.data.rendering.songs import AUDIO, AVERAGED, render_deam
from emotion_ft.data.rendering.synthesis import synthesise
from emotion_ft.errors import UsageError

REPOSITORY = Path(__file__).parents[3]
SHARED = REPOSITORY.parent / "shared" / "deam"
STATIC = AVERAGED / "song_level" / "static_annotations_averaged_songs_1_2000.csv"
FULL_SONGS = AVERAGED / "song_level" / "static_annotations_averaged_songs_2000_2058.csv"
DYNAMIC = AVERAGED / "dynamic (per second annotations)"
METADATA = Path("metadata", "metadata_2013.csv")


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sing(valence, arousal, seed, seconds=8):
    """Mono audio at 22.05 kHz of a song with constant labels; the seed determines everything else."""
    ones = np.ones(seconds * songs.CONTROL_RATE)
    generators = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    return synthesise(valence * ones, arousal * ones, *generators)[::2].mean(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return render_deam(tmp_path_factory.mktemp("rendered") / "songs", songs=3, seconds=17, seed=3)


def test_layout_and_headers_are_deams(root):
    ids = [2, 3, 5]
    audio = {str(AUDIO / f"{i}.mp3") for i in ids}
    csvs = {str(path) for path in (STATIC, DYNAMIC / "arousal.csv", DYNAMIC / "valence.csv", METADATA)}
    assert set(contents(root)) == audio | csvs | {RENDER_SETTINGS}
    static = (root / STATIC).read_bytes()
    assert static.startswith(b"song_id, valence_mean, valence_std, arousal_mean, arousal_std\r\n2,")
    dynamic = (root / DYNAMIC / "valence.csv").read_bytes()
    assert dynamic.startswith(b"song_id,sample_15000ms,sample_15500ms,sample_16000ms,sample_16500ms\r\n2,")
    metadata = (root / METADATA).read_bytes()
    header = b'"song_id","file_name","Artist","Song title","start of the segment (min.sec)",'
    assert metadata.startswith(header + b'"end of the segment (min.sec)","Genre"\r\n"2","\t2.mp3","')
    for content in (static, dynamic, metadata):
        assert content.count(b"\n") == content.count(b"\r\n") == len(ids) + 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="DEAM's annotations are not available")
def test_headers_equal_the_distributed_ones(root):
    for path in (STATIC, METADATA):
        with open(root / path, "rb") as ours, open(SHARED / path, "rb") as distributed:
            assert ours.readline() == distributed.readline()


def test_other_music_is_never_touched(tmp_path):
    (tmp_path / "MEMD_audio").mkdir()
    (tmp_path / "MEMD_audio" / "2.mp3").write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="choose another folder"):
        render_deam(tmp_path, songs=2, seconds=1)
    with pytest.raises(UsageError, match="choose another folder"):
        render_deam(tmp_path, songs=2, seconds=1, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["2.mp3"]


def test_files_are_stereo_mp3s_of_the_requested_length(root):
    for path in (root / AUDIO).iterdir():
        info = soundfile.info(path)
        assert (info.format, info.samplerate, info.channels) == ("MP3", 44100, 2)
        assert info.duration == pytest.approx(17, abs=0.1)
        audio, _ = soundfile.read(path)
        assert 0.05 < np.abs(audio).max() <= 1.1 and np.isfinite(audio).all()
        assert not np.allclose(audio[:, 0], audio[:, 1])


def test_its_songs_are_known_as_rendered_and_others_are_not(root, songs_root, tmp_path):
    known = {bool(mark) for side in load_deam(root).values() for mark in side["rendered"]}
    assert known == {True}
    assert not any(load_songs(songs_root)["rendered"])
    (tmp_path / "Surrendered").mkdir()
    shutil.copy(next((root / AUDIO).glob("*.mp3")), tmp_path / "Surrendered" / "1.mp3")
    table = tmp_path / "Surrendered" / "labels.csv"
    table.write_text("song_id,valence,arousal\n1,4,5\n")
    for rendered in (False, True):
        songs = load_csv(table, table.parent)
        assert songs["rendered"][:] == [rendered] and songs["source"][:] == ["Surrendered"]
        shutil.copy(root / "render_settings.json", table.parent)


def test_our_reader_reads_it(root):
    static, dynamic = read_static(root), read_dynamic(root)
    assert static[["valence", "arousal"]].stack().between(1, 9).all()
    assert static[["valence_std", "arousal_std"]].stack().between(0, 4).all()
    assert set(dynamic) == set(static.index) == set(read_artists(root))
    for curve in dynamic.values():
        assert (curve.start, curve.step, len(curve.valence)) == (15.0, 0.5, 4)  # 15.0 to 16.5 s of 17
        assert np.abs([curve.valence, curve.arousal]).max() <= 1
    pd.testing.assert_frame_equal(repair(static, dynamic), static)


@pytest.mark.parametrize(
    "seconds, first, count", [(45, 15, 60), (20, 15, 10), (15.5, 15, 1), (15.2, 14.5, 1), (6, 5.5, 1), (1, 0.5, 1)]
)
def test_curves_start_at_15_s_and_never_run_past_the_audio(seconds, first, count):
    table = songs._draw(2, seconds, seed=0)
    lines = songs._annotations(table, seconds, 0)["arousal.csv"].splitlines()
    moments = [int(name[len("sample_") : -len("ms")]) / 1000 for name in lines[0].split(",")[1:]]
    assert (moments[0], len(moments)) == (first, count)
    assert moments[-1] + 0.5 <= seconds and all(len(line.split(",")) == count + 1 for line in lines)


def test_labels_have_deams_statistics_for_every_seed():
    for seed in range(5):
        table = songs._draw(300, 20, seed)
        text = songs._annotations(table, 20, seed)[STATIC.name]
        rows = np.array([line.split(",") for line in text.splitlines()[1:]], float)
        assert rows[:, 0].max() <= 1000 and (np.diff(rows[:, 0]) > 0).all()
        labels, deviations = rows[:, [1, 3]], rows[:, [2, 4]]
        assert (labels >= 1).all() and (labels <= 9).all()
        np.testing.assert_allclose(labels.mean(0), [4.99, 4.72], atol=0.12)
        np.testing.assert_allclose(labels.std(0), [1.11, 1.33], atol=0.12)
        np.testing.assert_allclose(deviations.mean(0), [1.47, 1.49], atol=0.1)
        assert np.corrcoef(labels.T)[0, 1] == pytest.approx(0.59, abs=0.06)
        true = np.array([[5 + 4 * valence.mean(), 5 + 4 * arousal.mean()] for _, valence, arousal in table.values()])
        ceiling = 1 - ((labels - true) ** 2).mean(0) / labels.var(0)
        assert (ceiling > 0.7).all() and (ceiling < 0.9).all()
        artists = pd.Series([artist for artist, *_ in table.values()]).value_counts()
        assert 5 <= artists.max() <= 40 and 0.3 < (artists == 1).sum() / 300 < 0.7
        assert len({songs._name(artist) for artist in artists.index}) == len(artists)


def test_adding_songs_changes_no_song():
    few, many = songs._draw(10, 20, 7), songs._draw(1749, 20, 7)
    assert max(many) == 2000
    for song_id in few:
        assert few[song_id][0] == many[song_id][0]
        np.testing.assert_array_equal(few[song_id][1:], many[song_id][1:])


def test_bytes_do_not_depend_on_the_number_of_processes_but_on_the_seed(root, tmp_path):
    again = render_deam(tmp_path / "again", songs=3, seconds=17, seed=3, num_proc=2)
    assert contents(again) == contents(root)
    other = contents(render_deam(tmp_path / "other", songs=2, seconds=2, seed=4))
    same = contents(render_deam(tmp_path / "same", songs=2, seconds=2, seed=3))
    assert all(other[name] != same[name] for name in other if name.endswith(".mp3"))


def test_rendering_resumes(tmp_path):
    root = render_deam(tmp_path, songs=3, seconds=2)
    before = contents(root)
    kept, lost = root / AUDIO / "2.mp3", root / AUDIO / "3.mp3"
    os.utime(kept, (1, 1))
    lost.unlink()
    render_deam(tmp_path, songs=3, seconds=2)
    assert contents(root) == before and kept.stat().st_mtime == 1
    render_deam(tmp_path, songs=3, seconds=2, overwrite=True)
    assert contents(root) == before and kept.stat().st_mtime > 1


def test_other_settings_and_foreign_folders_raise(tmp_path):
    root = render_deam(tmp_path / "songs", songs=3, seconds=2)
    before = contents(root)
    for change in ({"seed": 1}, {"seconds": 3}, {"songs": 2}):
        with pytest.raises(UsageError, match="overwrite=True"):
            render_deam(root, **{"songs": 3, "seconds": 2, **change})
    with pytest.raises(UsageError, match="seconds 2, not 3"):
        render_deam(root, songs=3, seconds=3)
    assert contents(root) == before
    render_deam(root, songs=2, seconds=3, overwrite=True)
    assert sorted(path.name for path in (root / AUDIO).iterdir()) == ["2.mp3", "3.mp3"]
    (root / RENDER_SETTINGS).unlink()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not rendered here"):
            render_deam(root, songs=2, seconds=3, overwrite=overwrite)


@pytest.mark.parametrize("wrong", [{"songs": 0}, {"songs": 1750}, {"seconds": 0.5}, {"seed": -1}, {"num_proc": 0}])
def test_numbers_out_of_range_raise(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected"):
        render_deam(tmp_path / "songs", **wrong)
    assert not (tmp_path / "songs").exists()


def onsets_per_second(audio):
    return len(librosa.onset.onset_detect(y=audio, sr=22050)) / (len(audio) / 22050)


def high_to_low(audio):
    """Decibels above 2 kHz over those below 150 Hz."""
    power = np.abs(librosa.stft(audio)).mean(1) ** 2
    hertz = librosa.fft_frequencies(sr=22050)
    return 10 * np.log10(power[hertz > 2000].sum() / power[hertz < 150].sum())


def percussive_share(audio):
    harmonic, percussive = librosa.effects.hpss(audio)
    return (percussive**2).sum() / (harmonic**2).sum()


@pytest.mark.parametrize("cue", [onsets_per_second, percussive_share])
def test_arousal_raises(cue):
    pairs = [(cue(sing(0, -0.6, seed)), cue(sing(0, 0.6, seed))) for seed in range(3)]
    assert all(high > 1.5 * low for low, high in pairs), pairs


def test_arousal_raises_tempo():
    calm, excited = (
        np.median([librosa.beat.beat_track(y=sing(0, arousal, seed), sr=22050)[0].item() for seed in range(3)])
        for arousal in (-0.6, 0.6)
    )
    assert excited > calm


def test_valence_raises_register():
    for arousal in (-0.4, 0.4):
        pairs = [[high_to_low(sing(valence, arousal, seed)) for valence in (-0.6, 0.6)] for seed in range(3)]
        assert all(high > low + 3 for low, high in pairs), pairs


def test_valence_chooses_the_mode():
    """Correlation with major minus minor key profiles (Krumhansl & Kessler 1982), best rotation each."""
    profiles = {
        "major": [6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88],
        "minor": [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17],
    }

    def majorness(audio):
        chroma = librosa.feature.chroma_cqt(y=audio, sr=22050).mean(1)
        best = {
            name: max(np.corrcoef(np.roll(profile, k), chroma)[0, 1] for k in range(12))
            for name, profile in profiles.items()
        }
        return best["major"] - best["minor"]

    dark, bright = (np.mean([majorness(sing(v, 0, seed)) for seed in range(4)]) for v in (-0.5, 0.5))
    assert bright > dark


def test_audio_follows_the_moving_label():
    rise, still = np.linspace(-0.6, 0.6, 200), np.zeros(200)
    for seed in range(3):
        generators = [[np.random.default_rng([seed, k]) for k in (1, 2)] for _ in range(2)]
        brighter = synthesise(rise, still, *generators[0])[::2].mean(1)
        faster = synthesise(still, rise, *generators[1])[::2].mean(1)
        half = len(brighter) // 2
        assert high_to_low(brighter[half:]) > high_to_low(brighter[:half]) + 3
        assert onsets_per_second(faster[half:]) > onsets_per_second(faster[:half])


def described(audio):
    """Per-band means, deviations and frame deltas of a standardised log-mel: (3 * 40,)."""
    mel = np.log(librosa.feature.melspectrogram(y=audio, sr=22050, hop_length=441, n_mels=40, fmax=8000) + 1e-6)
    mel = (mel - mel.mean()) / mel.std()
    return np.concatenate([mel.mean(1), mel.std(1), np.abs(np.diff(mel)).mean(1)])


def test_ridge_learns_both_dimensions():
    table = songs._draw(100, 6, seed=5)
    text = songs._annotations(table, 6, 5)[STATIC.name]
    labels = np.array([line.split(",") for line in text.splitlines()[1:]], float)[:, [1, 3]]
    features = []
    for song_id, (artist, *curves) in table.items():
        generators = np.random.default_rng([5, 1, artist]), np.random.default_rng([5, 0, song_id])
        features.append(described(synthesise(*curves, *generators)[::2].mean(1)))
    x = np.array(features)
    x = (x - x[:80].mean(0)) / x[:80].std(0)
    centre = labels[:80].mean(0)
    weights = np.linalg.solve(x[:80].T @ x[:80] + 100 * np.eye(x.shape[1]), x[:80].T @ (labels[:80] - centre))
    residual = labels[80:] - centre - x[80:] @ weights
    r2 = 1 - (residual**2).sum(0) / ((labels[80:] - labels[80:].mean(0)) ** 2).sum(0)
    assert (r2 > 0.3).all(), r2


def write_annotations(folder):
    """Made-up annotations at another depth: 12 songs exchanged in the static file only, and one full song."""
    rng = np.random.default_rng(0)
    ids = [*range(2, 14), 1500, 2001]
    moments = np.arange(15, 50, 0.5)
    valence, arousal = rng.uniform(-0.6, 0.6, (2, len(ids)))
    folder.mkdir(parents=True)
    for name, labels in (("valence.csv", valence), ("arousal.csv", arousal)):
        rows = ["song_id," + ",".join(f"sample_{1000 * t:.0f}ms" for t in moments)]
        for song_id, label in zip(ids, labels, strict=True):
            count = 70 if song_id == 2001 else 60
            cells = [f"{label:.4f}"] * count + [""] * (70 - count)
            rows.append(",".join([str(song_id), *cells]))
        (folder / name).write_bytes("\r\n".join(rows).encode())
    static = ["song_id, valence_mean, valence_std, arousal_mean, arousal_std"]
    full = ["song_id, arousal_std, arousal_mean, valence_ max_mean, valence_mean, valence_std"]
    for song_id, v, a in zip(ids, 5 + 4 * valence, 5 + 4 * arousal, strict=True):
        first, second = (a, v) if song_id <= 1000 else (v, a)
        if song_id <= 2000:
            static.append(f"{song_id},{first:.2f},1.5,{second:.2f},1.4")
        else:
            full.append(f"{song_id},1.4,{a:.2f},9,{v:.2f},1.5")
    static.append("1600,7,1.5,3,1.4")  # no curve
    (folder / STATIC.name).write_bytes("\r\n".join(static).encode() + b"\r\n")
    (folder / FULL_SONGS.name).write_bytes("\n".join(full).encode())
    (folder / METADATA.name).write_bytes(b'"song_id","Artist"\r\n"2","\tSomebody\t"\r\n')
    return {song_id: pair for song_id, *pair in zip(ids, valence, arousal, strict=True)}


def test_given_labels_are_copied_byte_for_byte_and_rendered_repaired(tmp_path):
    truth = write_annotations(tmp_path / "given" / "deeper")
    root = render_deam(tmp_path / "songs", seconds=2, labels=tmp_path / "given")
    for path in (STATIC, FULL_SONGS, DYNAMIC / "arousal.csv", DYNAMIC / "valence.csv", METADATA):
        assert (root / path).read_bytes() == (tmp_path / "given" / "deeper" / path.name).read_bytes()
    assert {int(path.stem) for path in (root / AUDIO).iterdir()} == {*truth, 1600}

    table = songs._read(tmp_path / "given", seconds=45)
    for song_id, labels in truth.items():
        _, *curves = table[song_id]
        assert len(curves[0]) == len(curves[1]) == (500 if song_id == 2001 else 450)
        np.testing.assert_allclose(np.mean(curves, axis=1), labels, atol=1e-3)
    np.testing.assert_allclose([curve.mean() for curve in table[1600][1:]], [0.5, -0.5])
    assert len(songs._read(tmp_path / "given", seconds=44)[2001][1]) == 440

    (tmp_path / "given" / "deeper" / METADATA.name).write_bytes(b'"song_id","Artist"\r\n"2","\tElse\t"\r\n')
    with pytest.raises(UsageError, match="annotations"):
        render_deam(root, seconds=2, labels=tmp_path / "given")


@pytest.mark.skipif(not SHARED.is_dir(), reason="DEAM's annotations are not available")
def test_deams_own_labels_are_all_there():
    table = songs._read(SHARED, seconds=45)
    assert len(table) == 1802
    static = read_static(SHARED)
    first = [song_id for song_id in table if song_id <= 1000]
    rendered = [table[song_id][2].mean() for song_id in first]
    assert np.corrcoef(rendered, static.loc[first, "valence"])[0, 1] > 0.9  # exchanged in the file, not in the audio
    assert max(len(valence) for _, valence, _ in table.values()) / songs.CONTROL_RATE == 626.5


def test_recipe(tmp_path):
    recipe = [sys.executable, str(REPOSITORY / "recipes" / "render_songs.py")]
    command = [*recipe, str(tmp_path / "songs"), "--songs", "2", "--seconds", "2", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("2 songs (2 new) of 2 s, ") and len(done.stdout.splitlines()) == 1
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert again.stdout == f"2 songs (0 new) of 2 s, in {tmp_path / 'songs'}\n"
