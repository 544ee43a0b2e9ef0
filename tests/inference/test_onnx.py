from copy import deepcopy

import numpy as np
import pytest
import torch
from commands import in_process

from emotion_ft.errors import UsageError
from emotion_ft.inference.onnx import FILES, export, load_onnx, parity_table
from emotion_ft.inference.predict import predict_file


@pytest.fixture(scope="module")
def folder(model, tiny_extractor, tmp_path_factory):
    """A model's folder with its exports."""
    folder = tmp_path_factory.mktemp("model")
    for saved in (model, tiny_extractor):
        saved.save_pretrained(folder)
    paths = export(model, folder)
    assert paths == {name: folder / file for name, file in FILES.items()}
    return folder


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equals_torch_for_any_batch(folder, model, batch):
    windows = torch.randn(batch, 101, 128, generator=torch.Generator().manual_seed(0))
    expected = model(windows).logits.detach()
    assert expected.std() > 0.05 or batch == 1
    torch.testing.assert_close(load_onnx(folder)[0](windows).logits, expected, atol=1e-5, rtol=1e-4)


def test_int8_is_smaller_and_near(folder, model):
    windows = torch.randn(16, 101, 128, generator=torch.Generator().manual_seed(0))
    quantised = load_onnx(folder, "onnx-int8")[0](windows).logits
    error = (quantised - model(windows).logits.detach()).abs().max().item()
    assert 1e-5 < error < 0.05  # of [-1, 1]; not the float32 model under another name
    sizes = [(folder / FILES[name]).stat().st_size for name in ("onnx", "onnx-int8")]
    assert sizes[1] < 0.8 * sizes[0]


def test_predicts_files_as_torch_does(folder, model, tiny_extractor, write_wav, tmp_path):
    song = write_wav(tmp_path / "song.wav", 5.0)
    exported, extractor = load_onnx(folder)
    expected = predict_file(model, tiny_extractor, song, curve_step=1.0)
    found = predict_file(exported, extractor, song, curve_step=1.0)
    assert found[:2] == pytest.approx(expected[:2], abs=1e-4)
    np.testing.assert_allclose(found.curve.valence, expected.curve.valence, atol=1e-4)


def test_exporting_leaves_the_model_as_it_was(model, tmp_path):
    trained = deepcopy(model).train().to(torch.bfloat16)
    export(trained, tmp_path)
    assert trained.training and trained.dtype == torch.bfloat16


def test_the_table_shows_what_differs(folder, model, tiny_extractor):
    log_mels = [np.random.default_rng(seed).normal(size=(300, 128)).astype(np.float16) for seed in range(3)]
    runtimes = {"torch": model, "onnx": load_onnx(folder)[0]}
    off = deepcopy(model)
    with torch.no_grad():
        off.head.out_proj.bias += torch.tensor([0.1, 0.0])
    table = parity_table(runtimes | {"off": off}, tiny_extractor, log_mels, repeats=1)
    assert table.loc["torch", ["valence", "arousal"]].tolist() == [0, 0]
    assert table.loc["onnx", ["valence", "arousal"]].max() < 1e-3 < table.loc["off", "valence"]
    assert table.loc["off", "arousal"] == 0 and (table["ms per window"] > 0).all()


def test_what_is_not_there_or_broken(folder, tiny_extractor, tmp_path):
    with pytest.raises(UsageError, match=r"no ONNX model at .*emotion-ft export_onnx"):
        load_onnx(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / FILES["onnx"]).write_bytes(b"half of it")
    with pytest.raises(UsageError, match=r"no model in .*: no config\.json, no preprocessor_config\.json"):
        load_onnx(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(UsageError, match="is not an ONNX model that can be run"):
        load_onnx(tmp_path)


@pytest.mark.slow
def test_the_recipes(folder, write_wav, tmp_path):
    song = write_wav(tmp_path / "song.wav", 5.0)
    done = in_process("export_onnx", folder, song, "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["torch", "onnx", "onnx-int8"]
    printed = [in_process("predict", "--model", folder, song, "--runtime", name).stdout for name in ("torch", "onnx")]
    assert printed[0] == printed[1] and ": valence" in printed[0]
