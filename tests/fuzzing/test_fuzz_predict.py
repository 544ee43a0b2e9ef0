"""`predict` on odd files, arguments and models: predictions on 1-9, or one line per fault, and never a traceback."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from fuzz import bounds, damaged, fuzz, one_line
from hypothesis import strategies as st
from test_fuzz_audio import FILES, RATE, rendered, signed

from emotion_ft.errors import UsageError
from emotion_ft.inference.loading import load_model
from emotion_ft.modeling.pipeline_ast_emotion import MusicEmotionPipeline

pytestmark = pytest.mark.stress

ROOT = Path(__file__).resolve().parents[2]
SONGS = {name: signed(data, b"song") for name, data in rendered(seconds=1.25).items()}
BATCH = 8


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir)


@pytest.fixture
def predict(loaded, capsys):
    """`predict(*arguments)`: recipes/predict.py in this process with a model at hand -> status, stdout, stderr."""
    main = runpy.run_path(str(ROOT / "recipes" / "predict.py"))["main"]

    def predict(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, arguments)))
        return stopped.value.code, *capsys.readouterr()

    return predict


@pytest.fixture
def at_hand(loaded, monkeypatch):
    monkeypatch.setattr("emotion_ft.inference.loading.load_model", lambda *_: loaded)


def test_files(predict, at_hand, tmp_path):
    """Every file is an input; a call of `predict` gets eight."""
    line = re.compile(r"valence ([1-9]\.\d\d), arousal ([1-9]\.\d\d)")
    tried = 0

    def check(drawn):
        nonlocal tried
        paths = [tmp_path / f"{number}.{name}" for number, (name, _) in enumerate(drawn)]
        for path, (_, data) in zip(paths, drawn, strict=True):
            path.write_bytes(signed(data))
        tried += len(paths)
        status, printed, errors = predict("--model", "x", *paths, "--output", tmp_path / "out.json")
        assert status in (0, 1)
        records = {record["file"]: record for record in json.loads((tmp_path / "out.json").read_text())}
        assert set(records) == {str(path) for path in paths}
        for path in paths:
            record = records[str(path)]
            if "error" in record:
                one_line(record["error"], longest=200)
                assert f"{path}: {record['error']}\n" in errors and status == 1
            else:
                assert 1 <= record["valence"] <= 9 and 1 <= record["arousal"] <= 9
                assert line.search(printed)

    file = st.sampled_from(list(SONGS)).flatmap(lambda name: st.tuples(st.just(name), damaged([SONGS[name]])))
    fuzz("predict, calls", 130, check, st.lists(file, min_size=BATCH, max_size=BATCH))
    print(f"predict, files: {tried} inputs")
    assert tried >= 1000


def test_arguments(predict, at_hand, tmp_path):
    song = tmp_path / "song.wav"
    song.write_bytes(SONGS["wav"])
    odd = ["0", "-1", "1", "0.5", "4", "x", "", "٣", "2**9", "1e400x", "-inf", "nan", "1e-12", "--step", "0x10"]
    numbers = st.sampled_from(odd)
    argument = st.one_of(
        st.sampled_from(["--curve", "--help", "--nosuch", "--plot", "--", "-", str(song), str(tmp_path), "x" * 3000]),
        st.builds("--step={}".format, numbers),
        st.builds("--batch_size={}".format, numbers),
        st.builds("--runtime={}".format, st.sampled_from(["torch", "ONNX", "", "x"])),
        st.builds("--output={}".format, st.sampled_from(["x", ".csv", "a/b.csv", "x.exe", "/nowhere/x.json"])),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    )

    def check(arguments):
        status, printed, errors = predict("--model", "x", *arguments)
        assert status in (0, 1, 2), status
        assert "Traceback" not in errors and (printed or errors)

    fuzz("predict, arguments", 600, check, st.lists(argument, max_size=3))


def test_models(model_dir, tmp_path):
    """One of a model's files damaged: a model all the same, or a `UsageError` that names the folder."""
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    whole = {name: (folder / name).read_bytes() for name in names}

    def check(name, data):
        (folder / name).write_bytes(data)
        try:
            load_model(folder)
        except UsageError as error:
            assert str(folder) in str(error)
        finally:
            (folder / name).write_bytes(whole[name])

    for name in names:
        fuzz(f"predict, {name}", 60, check, st.just(name), damaged([whole[name]]))


def test_pipeline(loaded):
    model, extractor = loaded
    pipe = MusicEmotionPipeline(model, feature_extractor=extractor, device="cpu")

    def check(data, curve, step):
        try:
            result = pipe(signed(data), curve=curve, step=step, min_seconds=0.1)
        except ValueError as error:
            one_line(str(error), longest=200)
        else:
            assert 1 <= result["valence"] <= 9 and 1 <= result["arousal"] <= 9

    steps = st.one_of(st.floats(), st.sampled_from([0.5, 1e-9, 5e-324, 1e308]))
    fuzz("pipeline, songs", 500, check, damaged(list(FILES.values())), st.booleans(), steps)


def test_a_tiny_step_asks_for_every_frame_once(loaded):
    model, extractor = loaded
    pipe = MusicEmotionPipeline(model, feature_extractor=extractor, device="cpu")
    song = rendered(seconds=2.5)["wav"]
    with bounds(seconds=10):
        every = pipe(song, curve=True, step=1e-12)
    assert every == pipe(song, curve=True, step=extractor.hop_length / RATE)
    assert len(every["curve"]["time"]) == 26
