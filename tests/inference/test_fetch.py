"""A model by its folder or its id: what is looked for on the Hub, and what is said where nothing is found."""

import pytest

from emotion_ft.config.settings import ModelConfig
from emotion_ft.errors import UsageError
from emotion_ft.inference import fetch as module
from emotion_ft.inference.fetch import fetch
from emotion_ft.training.inputs import find_checkpoint


@pytest.fixture
def asked(monkeypatch):
    """What the Hub was asked for."""
    names = []

    def download(name, **kwargs):
        names.append(name)
        raise OSError("no network")

    monkeypatch.setattr(module, "snapshot_download", download)
    return names


def test_a_folder_is_itself(model_dir):
    assert fetch(model_dir) == model_dir == fetch(str(model_dir))


@pytest.mark.parametrize(
    "name", ["./model", "../runs/model", "/nowhere/model", "~/model", "runs/deam/model", "model", "a\\b"]
)
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(name, asked):
    with pytest.raises(UsageError, match=r"no model in '.*': no such folder\.$"):
        fetch(name)
    assert not asked


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model").write_text("weights")
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        fetch(tmp_path / "model")


def test_an_id_is_asked_for_once_and_the_sentence_says_what_to_do(asked):
    expected = r"cannot get 'you/model': .*\(no network\)\. Check the network, or use another\.$"
    with pytest.raises(UsageError, match=expected):
        fetch("you/model", advice="use another")
    assert asked == ["you/model"]


def test_weights_to_start_from_are_named_with_their_flag_and_the_small_configuration(capfd):
    """Tests are offline, so this is what a user without a network sees, in one line and at once."""
    with pytest.raises(UsageError, match=r"--checkpoint FOLDER.* deam_small\.$"):
        find_checkpoint(ModelConfig(checkpoint="MIT/nowhere"))
    assert capfd.readouterr() == ("", "")


def test_random_weights_need_nothing():
    assert find_checkpoint(ModelConfig(checkpoint=None)) is None
