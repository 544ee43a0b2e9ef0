import itertools
import json
import random
import re
import shutil
from copy import copy, deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import leave, succeed
from datasets import Dataset

from emotion_ft import run_folder
from emotion_ft.config.parser import parse_config
from emotion_ft.config.settings import ConfigError
from emotion_ft.data.augment import TrainingTransform, with_transform
from emotion_ft.data.features import FRONT_END_SETTINGS
from emotion_ft.data.songs import labels_of
from emotion_ft.data.splits import SPLIT_NAMES, SplitError, read_split, write_split
from emotion_ft.data.synthetic import SyntheticTransform
from emotion_ft.errors import UsageError
from emotion_ft.gan.train_songs import load_train_songs, refuse_changes, split_reference
from emotion_ft.modeling import MelDiscriminator, MelGanConfig, MelGenerator
from emotion_ft.training.inputs import build_extractor, save_inputs
from emotion_ft.training.provenance import check_front_end
from emotion_ft.training.synthetic_windows import Confirmation, mix_synthetic


@pytest.fixture(scope="module")
def splits(stored_songs):
    return {name: stored_songs[name]["song_id"][:] for name in SPLIT_NAMES}


@pytest.fixture(scope="module")
def built(songs_root, tmp_path_factory):
    """`built(folder, *flags)` -> the configuration of a run in `folder` whose front end is `tiny_extractor`."""
    cache = tmp_path_factory.mktemp("cache")

    def make(folder, *flags):
        audio = ("--seconds", "2", "--num_windows", "3")
        data = ("--data_root", str(songs_root), "--cache_dir", str(cache))
        output = ("--output_dir", str(folder), "--precision", "fp32")
        return parse_config([*audio, *data, *output, *map(str, flags)])

    return make


@pytest.fixture
def configure(built, tmp_path):
    """`configure(*flags)` -> the configuration of the run `finished`."""
    return lambda *flags: built(tmp_path / "run", *flags)


@pytest.fixture(scope="module")
def finished_once(built, tiny_model, stored_songs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = built(folder)
    tiny_model.save_pretrained(folder)
    build_extractor(config).save_pretrained(folder)
    save_inputs(config, stored_songs, [])
    run_folder.write_results(folder, {"protocol": "tiny"})
    return folder


@pytest.fixture(scope="module")
def gan_once(built, tiny_extractor, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = MelGenerator(MelGanConfig(max_length=101, channels=4, num_scales=2, latent_size=8))
    generator.save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    write_split(splits, folder / "splits")
    built(folder / "run").save(folder)
    run_folder.write_results(folder, {})
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """The folder of a finished fine-tuning run."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))


@pytest.fixture
def gan(gan_once, tmp_path):
    """The folder of a trained GAN."""
    return Path(shutil.copytree(gan_once, tmp_path / "gan"))


def move(folder, splits, side, count):
    """Write id lists in which the first `count` songs of one side are trained on; return these songs."""
    moved = splits[side][:count]
    rest = {**splits, "train": splits["train"] + moved, side: splits[side][count:]}
    write_split(rest, folder / "splits")
    return moved


class TestFlags:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--synthetic_fraction", "1"], r"synthetic_fraction is a share in \[0, 1\), but is 1"),
            (["--synthetic_fraction", "-0.1"], r"synthetic_fraction is a share in \[0, 1\), but is -0.1"),
            (["--confirm_with", "X"], "gan is not set"),
            (["--gan", "G", "--confirm_with", "X", "--confirm_within", "0"], "confirm_within must be positive"),
            (["--reference_fraction", "1"], r"reference_fraction is a share in \(0, 0.5\], but is 1"),
            (["--reference_fraction", "0"], r"reference_fraction is a share in \(0, 0.5\], but is 0"),
            (["--label_smoothing", "1"], r"label_smoothing must lie in \[0, 1\), but is 1"),
            (["--label_smoothing", "nan"], r"label_smoothing must lie in \[0, 1\), but is nan"),
            (
                ["--adversarial_loss", "hinge", "--label_smoothing", "0.1"],
                "label_smoothing=0.1 has no effect: the hinge",
            ),
            (["--adversarial_loss", "hinge", "--label_smoothing", "0"], "label_smoothing=0 has no effect"),
            (["--gan_batch_size", "1"], "gan_batch_size must be at least 2, but is 1"),
        ],
    )
    def test_what_cannot_be_is_refused(self, flags, message):
        with pytest.raises(ConfigError, match=message):
            parse_config(flags)

    @pytest.mark.parametrize(
        "flags",
        [
            ["--synthetic_fraction", "0"],
            ["--gan", "G", "--confirm_with", "X"],
            ["--label_smoothing", "0", "--gan_batch_size", "2", "--reference_fraction", "0.5"],
        ],
    )
    def test_what_can_be_is_not(self, flags):
        parse_config(flags)

    def test_labels_are_smoothed_under_bce_alone(self, tmp_path):
        for flags, expected in ((["bce"], 0.1), (["hinge"], None), (["bce", "--label_smoothing", "0"], 0.0)):
            config = parse_config(["--adversarial_loss", *flags])
            assert config.gan.label_smoothing == expected
            assert parse_config([str(config.save(tmp_path))]).gan == config.gan
        assert (parse_config([]).gan.adversarial_loss, parse_config([]).gan.label_smoothing) == ("bce", 0.1)

    @pytest.mark.parametrize("flags", [(), ("--adversarial_loss", "hinge")])
    def test_a_file_that_smooths_the_labels_of_hinge_is_refused(self, flags, tmp_path):
        path = tmp_path / "config.yaml"
        loss = "" if flags else "adversarial_loss: hinge, "
        path.write_text(f"gan: {{{loss}label_smoothing: 0.2}}\n")
        with pytest.raises(ConfigError, match=r"label_smoothing=0.2 has no effect: .* Leave it out of flags and file"):
            parse_config([str(path), *flags])


class TestFrontEnd:
    def test_every_setting_that_differs_is_named_and_no_other(self, tiny_extractor):
        settings = (*FRONT_END_SETTINGS, "max_length")
        for changed in (*((name,) for name in settings), ("f_max", "hop_length"), settings):
            theirs = copy(tiny_extractor)
            for name in changed:
                setattr(theirs, name, "other")
            with pytest.raises(UsageError, match="'some/run'") as caught:
                check_front_end(tiny_extractor, theirs, "some/run")
            named = re.findall(r"(\w+) is (\S+) here and (\w+) there", str(caught.value))
            assert sorted(named) == sorted((name, str(getattr(tiny_extractor, name)), "other") for name in changed)

    def test_the_number_of_windows_does_not_matter(self, tiny_extractor):
        theirs = copy(tiny_extractor)
        theirs.num_windows = 7
        check_front_end(tiny_extractor, theirs, "some/run")


class TestTrainSongs:
    def test_are_those_of_the_runs_list_with_its_model(self, configure, finished, tiny_model, stored_songs):
        listed = read_split(finished / "splits")
        write_split({**listed, "train": listed["train"][:11]}, finished / "splits")
        config = configure()
        songs, model = load_train_songs(config, finished, build_extractor(config))
        assert songs["song_id"][:] == listed["train"][:11]
        assert songs["log_mel"][:] == stored_songs["train"]["log_mel"][:11]
        assert not any(songs["synthetic"]) and "train songs" in songs.info.description
        for name, tensor in tiny_model.state_dict().items():
            assert torch.equal(model.state_dict()[name].cpu(), tensor), name

    def test_no_other_song_is_opened(self, configure, finished, songs_root, splits, tmp_path):
        root = tmp_path / "copy"
        shutil.copytree(songs_root, root)
        for song_id in splits["test"]:
            next(root.rglob(f"{song_id}.wav")).unlink()
        for song_id in splits["validation"]:
            next(root.rglob(f"{song_id}.wav")).write_text("this is no music")
        config = configure("--data_root", root, "--max_bad_fraction", "0")
        songs, _ = load_train_songs(config, finished, build_extractor(config))
        assert songs["song_id"][:] == splits["train"]

    @pytest.mark.parametrize("name", ["config.yaml", "splits", "all_results.json"])
    def test_an_unfinished_run_is_refused(self, configure, finished, name):
        path = finished / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(UsageError, match=rf"not a finished fine-tuning run, {re.escape(name)} is missing"):
            load_train_songs(configure(), finished, build_extractor(configure()))

    def test_a_folder_without_a_model_is_refused(self, configure, finished):
        (finished / "model.safetensors").unlink()
        with pytest.raises(UsageError, match="no model in"):
            load_train_songs(configure(), finished, build_extractor(configure()))

    def test_a_run_of_a_version_that_wrote_smoothing_beside_hinge_is_not_refused(self, configure, finished, splits):
        path = finished / "config.yaml"
        sections = yaml.safe_load(path.read_text())
        sections["gan"] |= {"adversarial_loss": "hinge", "label_smoothing": 0.1}
        path.write_text(yaml.safe_dump(sections))
        songs, _ = load_train_songs(configure(), finished, build_extractor(configure()))
        assert songs["song_id"][:] == splits["train"]

    def test_a_run_with_other_labels_is_refused(self, configure, finished):
        config = configure("--labels", "distributed")
        with pytest.raises(UsageError, match="labels are distributed here, but repaired in"):
            load_train_songs(config, finished, build_extractor(config))

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--f_max", "7000"], r"f_max is 7000.0 here and 8000.0 there\."),
            (["--seconds", "3"], r"max_length is 151 here and 101 there\."),
        ],
    )
    def test_a_run_with_another_front_end_is_refused(self, configure, finished, flags, message):
        config = configure(*flags)
        with pytest.raises(UsageError, match=message):
            load_train_songs(config, finished, build_extractor(config))

    def test_a_list_that_leaks_is_refused(self, configure, finished, splits):
        with open(finished / "splits" / "test.txt", "a") as file:
            file.write(f"{splits['train'][0]}\n")
        with pytest.raises(SplitError, match=f"song {splits['train'][0]} is already in"):
            load_train_songs(configure(), finished, build_extractor(configure()))


class TestReference:
    @pytest.fixture(scope="class")
    def songs(self):
        """60 songs in no order, two thirds of them by twelve artists in any letter case."""
        rng = np.random.default_rng(0)
        ids = rng.permutation(np.arange(100, 160)).tolist()
        artists = [None if i % 3 == 0 else f"{'the' if i % 2 else 'The'} band {i % 12}" for i in ids]
        return Dataset.from_dict({"song_id": ids, "artist": artists})

    def test_three_sides_without_a_common_song_or_artist(self, songs):
        sides = split_reference(songs, 0.3, 42)
        ids = [side["song_id"][:] for side in sides]
        assert sorted(itertools.chain(*ids)) == sorted(songs["song_id"]) and all(ids)
        artists = [{name.casefold() for name in side["artist"] if name} for side in sides]
        assert artists[0] and artists[1] | artists[2]
        assert not any(one & other for one, other in itertools.combinations(artists, 2))
        artist_of = dict(zip(songs["song_id"], songs["artist"], strict=True))
        assert all(artist_of[row["song_id"]] == row["artist"] for side in sides for row in side)

    def test_the_seed_decides_and_not_the_order(self, songs):
        def draw(songs, seed):
            return [side["song_id"][:] for side in split_reference(songs, 0.3, seed)]

        assert draw(songs, 42) == draw(songs, 42) == draw(songs.select(range(59, -1, -1)), 42)
        assert all(ours != theirs for ours, theirs in zip(draw(songs, 42), draw(songs, 43), strict=True))

    def test_the_share_is_of_the_artists(self, stored_songs):
        for share in (0.2, 0.25):
            sides = split_reference(stored_songs["train"], share, 42)
            assert [len(side) for side in sides] == [12, 2, 2]  # every song has its own

    def test_too_few_songs_are_a_sentence(self, songs):
        with pytest.raises(SplitError, match="reference_fraction"):
            split_reference(songs.select([0]), 0.3, 42)
        alone = songs.filter(lambda row: row["artist"] is None)
        with pytest.raises(UsageError, match=r"leaves 17 of 20 songs to learn from, 1 to\s+select .* 2 to measure it"):
            split_reference(alone, 0.15, 42)

    def test_a_half_larger_than_what_there_is_to_learn_from_is_refused(self):
        artists = ["one"] * 40 + ["two"] * 3 + ["three"] * 2
        songs = Dataset.from_dict({"song_id": range(45), "artist": artists})
        refused = 0
        for seed in range(10):
            try:
                learnt, *halves = split_reference(songs, 0.5, seed)
            except UsageError as error:
                refused += "no more than the GAN" in str(error)
            else:
                assert max(map(len, halves)) <= len(learnt)
        assert refused


class TestMixing:
    @pytest.fixture
    def mix(self, configure, stored_songs, gan):
        def make(*flags):
            config = configure("--gan", gan, *flags)
            return mix_synthetic(config, stored_songs, build_extractor(config))

        return make

    def test_training_songs_as_they_were_and_the_share_of_others(self, mix, gan, stored_songs, tiny_extractor):
        mixed = mix("--synthetic_fraction", "0.5", "--seed", "7")
        assert mixed.with_format(None)["synthetic"][:] == [False] * 16 + [True] * 16
        transform = mixed.format["format_kwargs"]["transform"]
        generator = MelGenerator.from_pretrained(gan).eval()
        masks = parse_config([]).spec_augment
        expected = SyntheticTransform(tiny_extractor, masks, 7, generator, labels_of(stored_songs["train"]))
        real = with_transform(stored_songs["train"], TrainingTransform(tiny_extractor, masks, 7))
        for epoch in (0, 1):
            expected.set_epoch(epoch), transform.set_epoch(epoch)
            real.format["format_kwargs"]["transform"].set_epoch(epoch)
            made = expected.make([1, 2, 3])
            rows = mixed[[0, 5, 16, 17, 18]]
            assert all(map(torch.equal, rows["input_values"][:2], real[[0, 5]]["input_values"]))
            for name in ("input_values", "labels"):
                assert all(map(torch.equal, rows[name][2:], made[name]))

    def test_the_default_share_is_three_in_ten(self, mix):
        assert sum(mix().with_format(None)["synthetic"]) == round(0.3 / 0.7 * 16)

    def test_the_models_weights_will_be_those_without_a_gan(self, mix, finished):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        mix("--confirm_with", finished)
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    def test_a_folder_without_lists_or_configuration_is_refused(self, mix, gan):
        (gan / "config.yaml").unlink()
        with pytest.raises(UsageError, match=r"gan' holds no finished run, or does not say .*: no config.yaml"):
            mix()
        shutil.rmtree(gan / "splits")
        with pytest.raises(UsageError, match=r"gan' holds no finished run, or does not say .*: no splits"):
            mix()

    def test_an_unfinished_gan_is_refused(self, mix, gan):
        (gan / "all_results.json").unlink()
        with pytest.raises(UsageError, match=r"gan' holds no finished run, .*: no all_results.json"):
            mix()

    def test_a_gan_that_knows_songs_from_elsewhere_is_refused(self, mix, gan, splits):
        write_split({**splits, "train": [*splits["train"], 9001, 9002]}, gan / "splits")
        with pytest.raises(SplitError, match=r"on 2 songs that are not among the 16 training songs here: 9001, 9002"):
            mix()

    def test_other_labels_are_refused(self, mix):
        with pytest.raises(UsageError, match=r"labels are distributed here, but repaired in '.*gan'"):
            mix("--labels", "distributed")

    def test_no_gan_is_a_sentence(self, mix, tmp_path):
        with pytest.raises(UsageError, match="no GAN in"):
            mix("--gan", tmp_path)

    def test_a_fine_tuned_model_is_no_gan(self, mix, finished):
        with pytest.raises(UsageError, match="no GAN"):
            mix("--gan", finished, "--output_dir", "elsewhere")

    def test_a_discriminator_is_no_gan(self, mix, gan):
        MelDiscriminator(MelGanConfig(max_length=101, channels=4, num_scales=2)).save_pretrained(gan)
        with pytest.raises(UsageError, match="no GAN"):
            mix()

    def test_damaged_weights_are_a_sentence(self, mix, gan):
        weights = gan / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
        with pytest.raises(UsageError, match="no GAN in"):
            mix()

    def test_another_front_end_is_refused(self, mix, gan, tiny_extractor):
        theirs = deepcopy(tiny_extractor)
        theirs.hop_length = 160
        theirs.save_pretrained(gan)
        with pytest.raises(UsageError, match=r"differs from that of '.*gan': hop_length is 320 here and 160 there\."):
            mix()

    @pytest.mark.parametrize(("side", "count"), [("validation", 1), ("test", 1), ("test", 3)])
    def test_a_gan_that_knows_a_held_out_song_is_refused(self, mix, gan, splits, side, count):
        moved = ", ".join(map(str, move(gan, splits, side, count)))
        with pytest.raises(SplitError, match=rf"gan' was trained on {count} of the 4 {side} songs: {moved}\."):
            mix()

    def test_a_gan_that_learnt_from_fewer_songs_is_not(self, mix, gan, splits):
        write_split({**splits, "train": splits["train"][:3]}, gan / "splits")
        mix()


class TestConfirmation:
    @pytest.fixture
    def mix(self, configure, stored_songs, gan, finished):
        def make(*flags):
            config = configure("--gan", gan, "--confirm_with", finished, *flags)
            return mix_synthetic(config, stored_songs, build_extractor(config))

        return make

    def test_the_miss_is_the_worse_dimensions_on_the_nine_point_scale(self, tiny_model):
        windows = torch.randn(5, 101, 128, generator=torch.Generator().manual_seed(0))
        emotion = torch.rand(5, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.no_grad():
            predicted = 5 + 4 * tiny_model(windows).logits
        requested = 5 + 4 * emotion
        for within in (0.5, 2.0):
            miss = Confirmation(deepcopy(tiny_model).train(), within)(windows, emotion)
            assert miss.shape == (5,) and not miss.requires_grad
            torch.testing.assert_close(miss, (predicted - requested).abs().max(1).values / within)

    def test_the_named_model_judges(self, mix, tiny_model):
        mixed = mix("--confirm_within", "0.7")
        confirm = mixed.format["format_kwargs"]["transform"].confirm
        assert confirm.within == 0.7
        for name, tensor in tiny_model.state_dict().items():
            assert torch.equal(confirm.model.state_dict()[name], tensor), name
        assert mixed[20]["input_values"].shape == (101, 128)

    def test_without_lists_it_is_refused(self, mix, finished):
        shutil.rmtree(finished / "splits")
        with pytest.raises(UsageError, match=r"run' holds no finished run, or does not say .*: no splits"):
            mix()

    def test_another_front_end_is_refused(self, mix, finished, tiny_extractor):
        theirs = deepcopy(tiny_extractor)
        theirs.f_min = 20.0
        theirs.save_pretrained(finished)
        with pytest.raises(UsageError, match=r"differs from that of '.*run': f_min is 50.0 here and 20.0 there\."):
            mix()

    @pytest.mark.parametrize("side", ["validation", "test"])
    def test_one_that_knows_held_out_songs_is_refused(self, mix, finished, splits, side):
        moved = ", ".join(map(str, move(finished, splits, side, 2)))
        with pytest.raises(SplitError, match=rf"run' was trained on 2 of the 4 {side} songs: {moved}\."):
            mix()


@pytest.mark.slow
class TestFinetune:
    @pytest.fixture
    def flags(self, configure, gan, tmp_path):
        """Of the recipe `finetune`, for a tiny model and the windows of `gan`."""
        sizes = ("--checkpoint", "", "--hidden_size", 32, "--num_hidden_layers", 2, "--num_attention_heads", 2,
                 "--intermediate_size", 64, "--time_stride", 16, "--frequency_stride", 16)  # fmt: skip
        pace = ("--num_train_epochs", 2, "--gradient_accumulation_steps", 1)
        file = configure("--gan", gan).save(tmp_path)
        return (file, *sizes, *pace, "--output_dir", tmp_path / "mixed")

    def test_trains_with_synthetic_windows_and_is_scored_on_real_songs(self, flags, splits, tmp_path):
        done = succeed("finetune", *flags, "--synthetic_fraction", "0.5")
        assert "16 of 32 training rows are synthetic" in done.stderr
        results = json.loads((tmp_path / "mixed" / "all_results.json").read_text())
        assert (results["synthetic_windows"], results["train_songs"], results["test_songs"]) == (16, 16, 4)
        assert read_split(tmp_path / "mixed" / "splits") == splits
        assert np.isfinite(results["train_loss"]) and np.isfinite(results["test_mean_ccc"])
        assert max(json.loads(p.read_text())["global_step"] for p in (tmp_path / "mixed").rglob("*_state.json")) == 8

    def test_a_leak_is_one_clear_sentence(self, flags, gan, splits):
        move(gan, splits, "test", 2)
        done = leave(1, "finetune", *flags)
        assert done.stderr.splitlines()[-1].startswith("finetune: ")
        assert "was trained on 2 of the 4 test songs" in done.stderr


class TestResuming:
    @pytest.fixture
    def begun(self, configure, finished, tmp_path):
        """`begun(*flags)` -> the configuration of a GAN that stopped at step 4, its fine-tuned run, its checkpoint."""

        def make(*flags):
            return configure("--gan_output_dir", tmp_path / "started", "--gan_steps", "9", *flags)

        started = tmp_path / "started"
        for step in (2, 4):
            (started / f"checkpoint-{step}").mkdir(parents=True)
            (started / f"checkpoint-{step}" / run_folder.GAN_STATE).write_text("{}")
        make().save(started)
        shutil.copytree(finished / "splits", started / "splits")
        return make, finished, started / "checkpoint-4"

    def test_goes_on_with_the_same_settings(self, begun):
        make, run, checkpoint = begun
        refuse_changes(make("--measure_steps", "3"), run, checkpoint)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--seed", "7"], "seed is 7 here and was 42"),
            (["--latent_size", "5"], "latent_size is 5 here and was 64"),
            (["--reference_fraction", "0.3"], "reference_fraction is 0.3 here and was 0.2"),
            (["--generator_learning_rate", "1e-5"], "generator_learning_rate is 1e-05 here and was 0.001"),
            (["--gradient_accumulation_steps", "2"], "gradient_accumulation_steps is 2 here and was 4"),
            (["--gan_steps", "10"], "gan_steps is 10 here and was 9"),
        ],
    )
    def test_other_settings_are_refused(self, begun, flags, message):
        make, run, checkpoint = begun
        with pytest.raises(UsageError, match=re.escape(message)):
            refuse_changes(make(*flags), run, checkpoint)

    def test_other_songs_are_refused(self, begun, splits):
        make, run, checkpoint = begun
        write_split({**splits, "train": splits["train"][1:]}, run / "splits")
        with pytest.raises(UsageError, match=r"the id lists in '.*run' have changed"):
            refuse_changes(make(), run, checkpoint)

    def test_an_older_checkpoint_or_anothers_is_refused(self, begun, tmp_path):
        make, run, checkpoint = begun
        for other in (checkpoint.with_name("checkpoint-2"), tmp_path / "elsewhere" / "checkpoint-4"):
            with pytest.raises(UsageError, match="resumes from the last checkpoint in its gan_output_dir"):
                refuse_changes(make(), run, other)


def test_a_run_that_saw_synthetic_windows_measures_nothing(configure, finished, stored_songs):
    configure("--gan", "some/gan").save(finished)
    with pytest.raises(UsageError, match=r"was fine-tuned with the windows of some/gan"):
        load_train_songs(configure(), finished, build_extractor(configure()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gan_output_dir", "a", "--output_dir", "./a"], "output_dir and gan_output_dir are the same folder"),
        (["--gan_output_dir", "a", "--finetuned", "a"], "gan_output_dir and finetuned are the same folder"),
        (["--output_dir", "a", "--gan", "a"], "output_dir and gan are the same folder"),
    ],
)
def test_no_folder_is_both_read_and_written(flags, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(flags)
