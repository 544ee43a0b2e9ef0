import soundfile

from emotion_ft.config.settings import DataConfig
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.data.songs import select_splits
from emotion_ft.training.inputs import store_features


def test_a_recording_on_two_sides_is_left_out_of_the_earlier_one(tmp_path, tiny_extractor):
    render_deam(tmp_path, 9, 12)
    path = {int(path.stem): path for path in tmp_path.rglob("*.mp3")}
    ids = sorted(path)
    for early, late in ((0, 6), (1, 2)):  # a training song is a test song; and another, which does no harm
        samples, rate = soundfile.read(path[ids[late]])
        soundfile.write(path[ids[early]].with_suffix(".wav"), samples[rate // 4 :] / 3, rate)
        path[ids[early]].unlink()
    data = DataConfig(data_root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    sides = {"train": ids[:4], "validation": ids[4:6], "test": ids[6:]}
    stored, left_out = store_features(select_splits(load_songs(tmp_path), sides, "own"), tiny_extractor, data)
    assert {name: side["song_id"][:] for name, side in stored.items()} == sides | {"train": ids[1:4]}
    (file,) = left_out
    assert (file.song_id, file.reason) == (ids[0], f"the same recording as {ids[6]}, a test song")
    assert stored["test"].info.description.endswith(
        "split own; 1 songs left out, whose recordings are also on another side"
    )
