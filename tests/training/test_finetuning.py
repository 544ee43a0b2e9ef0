import pytest
import torch

from emotion_ft.config.parser import parse_config
from emotion_ft.data.splits import SplitError
from emotion_ft.training.finetuning import finetune, training_windows


def config(*flags):
    return parse_config(["--precision", "fp32", "--output_dir", "nowhere", *flags])


class TestTrainingWindows:
    def test_songs_are_cropped_and_masked_by_the_configuration(self, stored_songs, tiny_extractor):
        masked = training_windows(config(), tiny_extractor, stored_songs)[0]
        plain = training_windows(config("--time_masks", "0", "--frequency_masks", "0"), tiny_extractor, stored_songs)[
            0
        ]
        assert set(masked) == {"input_values", "labels"}
        zeros = masked["input_values"] == 0
        assert zeros.any() and torch.equal(masked["input_values"][~zeros], plain["input_values"][~zeros])
        other = training_windows(config("--seed", "1"), tiny_extractor, stored_songs)[0]
        assert not torch.equal(other["input_values"], masked["input_values"])

    def test_agreement_adds_weights_and_changes_nothing_else(self, stored_songs, tiny_extractor):
        plain = training_windows(config(), tiny_extractor, stored_songs)[3]
        weighed = training_windows(config("--label_weights", "agreement"), tiny_extractor, stored_songs)[3]
        assert weighed.pop("label_weights").tolist() == [1, 1]  # all deviations are equal here
        assert all(torch.equal(plain[name], weighed[name]) for name in plain) and plain.keys() == weighed.keys()

    def test_dynamic_labels_are_the_windows_own(self, stored_songs, tiny_extractor):
        songs = {"train": stored_songs["train"].remove_columns(["curve_start", "curve_valence", "curve_arousal"])}
        count = len(songs["train"])
        for name, value in (("curve_start", 0.0), ("curve_valence", [0.25] * 9), ("curve_arousal", [-0.5] * 9)):
            songs["train"] = songs["train"].add_column(name, [value] * count)
        window = training_windows(config("--labels", "dynamic"), tiny_extractor, songs)[0]
        assert window["labels"].tolist() == [0.25, -0.5]


def test_nothing_is_trained_on_a_split_that_leaks(stored_songs, tiny_extractor):
    leaking = {**stored_songs, "test": stored_songs["train"].select(range(4))}
    with pytest.raises(SplitError, match="4 songs are in train and in test"):
        finetune(config(), tiny_extractor, leaking, [])
