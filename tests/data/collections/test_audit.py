import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from commands import in_process

from emotion_ft.data.collections.audit import audit
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.modeling import ASTEmotionFeatureExtractor
from emotion_ft.reports.audit import to_markdown

SONGS = range(1001, 1061)


@pytest.fixture
def root(tmp_path, write_wav):
    """60 annotated songs of 16 s with curves; 1003 without audio, 1004 unreadable, 1005 cut short, 1006 outlying."""
    rng = np.random.default_rng(0)
    static = ["song_id,valence_mean,valence_std,arousal_mean,arousal_std"]
    curves = {name: ["song_id,sample_15000ms,sample_15500ms"] for name in ("valence", "arousal")}
    for song_id in SONGS:
        emotion = rng.uniform(-0.6, 0.6, 2)
        label = 5 + 3 * emotion + 0.1 * rng.normal(size=2)
        if song_id == 1006:
            label[0] = 9 - 8 * (label[0] > 5)
        static.append(f"{song_id},{label[0]:.3f},1.1,{label[1]:.3f},1.2")
        for name, value in zip(curves, emotion, strict=True):
            curves[name].append(f"{song_id},{value:.4f},{value:.4f}")
        if song_id != 1003:
            write_wav(tmp_path / f"{song_id}.wav", seconds=3 if song_id == 1005 else 16, rate=8000)
    (tmp_path / "1004.wav").write_bytes(b"no music")
    write_wav(tmp_path / "7777.wav", seconds=1, rate=8000)
    (tmp_path / "static_annotations_averaged_songs_1_2000.csv").write_text("\n".join(static) + "\n")
    for name, lines in curves.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_counts_what_is_there_and_what_is_not(root):
    found = audit(root)
    assert found.counts == {
        "songs with static annotations": 60,
        "of these with curves": 60,
        "curves without static annotations": 0,
        "audio files": 60,
        "annotated songs without audio": 1,
        "audio files without static annotations": 1,
        "songs with a known artist": 0,
        "groups of artists": 0,
        "songs with problems": 4,
    }


def test_lists_every_faulty_song_and_no_other(root):
    problems = audit(root).songs["problems"]
    assert problems[problems != ""].index.tolist() == [1003, 1004, 1005, 1006]
    assert problems[1003] == "no audio" and problems[1004].startswith("unreadable audio: ")
    assert problems[1005] == "the header says 3.0 s, but the curves run to 15.5 s"
    assert "robust deviations from what the curves predict" in problems[1006]


def test_headers_are_those_of_the_files(root):
    songs = audit(root).songs
    assert songs.loc[1010, ["duration", "sampling_rate", "channels"]].tolist() == [16, 8000, 1]
    assert audit(root, headers=False).songs["duration"].isna().all()


def test_an_exchange_is_found_from_the_data_and_outliers_judged_after_it(root):
    path = root / "static_annotations_averaged_songs_1_2000.csv"
    table = pd.read_csv(path)
    block = table["song_id"] <= 1030
    table.loc[block, ["valence_mean", "arousal_mean"]] = table.loc[block, ["arousal_mean", "valence_mean"]].to_numpy()
    table.to_csv(path, index=False)
    found = audit(root)
    first, last = found.exchange.ids[[0, -1]]
    assert abs(last - 1030) <= 3 and found.exchange.check.verdict == "exchanged"
    assert found.ends[0][0] <= first <= found.ends[0][1] and found.ends[1][0] <= last <= found.ends[1][1]
    assert found.ends[1][1] - found.ends[1][0] < 15
    assert "robust deviations" in found.songs["problems"][1006]
    text = to_markdown(found, root)
    assert f"an exchange in ids {first} to {last}, {len(found.exchange.ids)} rows" in text
    assert f"| {first}-{last} " in text and f"an id from {found.ends[1][0]} to {found.ends[1][1]} (boot" in text
    repaired = load_songs(root).info.description
    assert f"in {len(found.exchange.ids) - 1} rows with ids {first}-{last})" in repaired  # 1003 has no audio


def test_without_curves_it_says_what_it_cannot_decide(root):
    for name in ("valence", "arousal"):
        (root / f"{name}.csv").unlink()
    found = audit(root)
    assert found.checks == [] and not len(found.exchange.ids) and found.ends is None
    assert "Cannot be decided: there are no dynamic annotations" in to_markdown(found, root)


def test_lists_files_with_the_same_bytes_under_two_ids(root, write_wav):
    for number, path in enumerate(sorted(root.glob("*.wav"))):
        if path.stem not in ("1004", "1005"):
            write_wav(path, seconds=16, rate=8000, frequency=200 + number)
    shutil.copy(root / "1010.wav", root / "1020.wav")
    (root / "1030.wav").unlink()
    (root / "1030.wav").symlink_to(root / "nowhere.wav")
    found = audit(root)
    assert found.copies == [(1010, 1020, 1.0)]
    assert "## One recording under two ids\n\n- 1010 and 1020, agreement 1.00\n" in to_markdown(found, root)
    assert audit(root, headers=False).copies == []


def test_a_recording_in_another_format_is_found_by_its_sound(tmp_path):
    render_deam(tmp_path, 4, 16)
    audio = tmp_path / "DEAM_audio" / "MEMD_audio"
    (first, *_, last) = sorted(audio.iterdir(), key=lambda path: int(path.stem))
    samples, rate = soundfile.read(first)
    soundfile.write(last.with_suffix(".wav"), samples / 4, rate)
    last.unlink()
    assert audit(tmp_path).copies == []
    (pair,) = audit(tmp_path, extractor=ASTEmotionFeatureExtractor()).copies
    assert (pair.song_id, pair.other) == (int(first.stem), int(last.stem)) and pair.agreement > 0.9
    done = in_process("audit_deam", tmp_path, "--output", tmp_path / "audit", "--copies")
    assert f"- {first.stem} and {last.stem}, agreement" in done.stdout


@pytest.mark.parametrize("file", ["static", "dynamic"])
def test_genres_say_which_file_is_exchanged(root, file):
    """Half of the songs rock, energetic and no more pleasant than the classical ones; one of the files exchanged."""
    rng, ids = np.random.default_rng(0), np.arange(1001, 1041)
    rock = ids % 2 == 0
    valence, arousal = rng.uniform(-0.3, 0.3, 40), np.where(rock, 0.4, -0.4) + rng.uniform(-0.3, 0.3, 40)
    static, curves = ([valence, arousal][:: -1 if file == name else 1] for name in ("static", "dynamic"))
    table = pd.DataFrame({"song_id": ids, "valence_mean": 5 + 4 * static[0], "valence_std": 1, "arousal_std": 1})
    table.assign(arousal_mean=5 + 4 * static[1]).to_csv(root / "static_annotations_averaged_songs_1_2000.csv")
    for name, values in zip(("valence", "arousal"), curves, strict=True):
        moments = {f"sample_{time}ms": values for time in (15000, 15500)}
        pd.DataFrame({"song_id": ids, **moments}).to_csv(root / f"{name}.csv", index=False)
    genre = np.where(rock, "\tRock\t", "Classical")
    pd.DataFrame({"song_id": ids, "Artist": "Ann", "Genre": genre}).to_csv(root / "metadata_2013.csv", index=False)
    found = audit(root)
    assert found.genres["songs"].to_dict() == {"Classical": 20, "Rock": 20}
    assert f"In the {file} annotations, it is valence that separates the two" in to_markdown(found, root)
    (root / "render_settings.json").write_text("{}")
    assert "Classical" not in to_markdown(audit(root), root)


def test_shows_which_artists_are_kept_together(root):
    assert "## Artists" not in to_markdown(audit(root), root)
    names = ["Ann & Bob", "bob", "Cee", "Dee-A Title", "n/a", "-", "Dee"]
    lines = [f'"{song_id}","{name}"' for song_id, name in zip(SONGS, names, strict=False)]
    (root / "metadata_2013.csv").write_text("\n".join(["song_id,Artist", *lines]) + "\n")
    found = audit(root)
    assert found.counts["songs with a known artist"] == 5 and found.counts["groups of artists"] == 3
    assert "## Artists that are kept together\n\n- Ann & Bob; bob\n- Dee; Dee-A Title\n" in to_markdown(found, root)


def test_annotations_alone_are_enough(root):
    for path in root.glob("*.wav"):
        path.unlink()
    found = audit(root)
    assert found.counts["annotated songs without audio"] == 0 and "no audio" not in set(found.songs["problems"])
    assert "## Audio" not in to_markdown(found, root)


def test_the_recipe_prints_the_report_and_leaves_table_and_plots(root, tmp_path):
    output = tmp_path / "audit"
    done = in_process("audit_deam", root, "--output", output)
    assert done.returncode == 0, done.stderr
    assert (output / "audit.md").read_text() in done.stdout and "- 1003: no audio" in done.stdout
    assert pd.read_csv(output / "audit.csv").set_index("song_id").loc[1003, "problems"] == "no audio"
    for name in ("exchange.png", "labels.png"):
        assert (output / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert in_process("audit_deam", tmp_path / "nowhere").stderr.startswith("audit_deam: expected the folder")
