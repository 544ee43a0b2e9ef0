import pandas as pd
import pytest

from emotion_ft import run_folder
from emotion_ft.errors import UsageError
from emotion_ft.scoring.scores import system_predictions
from emotion_ft.studies import seeds
from emotion_ft.studies.seeds import run_seeds
from emotion_ft.training import inputs


@pytest.fixture
def config(run_config):
    """`config(*flags)` -> a configuration for two steps of a tiny model."""
    return lambda *flags: run_config("--max_steps", 2, *flags)


@pytest.mark.slow
def test_seeds_share_the_split_and_nothing_else(config, monkeypatch, tmp_path):
    stored, trained = [], []
    store, finetune = inputs.store_features, seeds.finetune
    monkeypatch.setattr(inputs, "store_features", lambda *given: stored.append(1) or store(*given))
    monkeypatch.setattr(seeds, "finetune", lambda *given: trained.append(given[0].training.seed) or finetune(*given))
    found = run_seeds(config("--seed", "7"), 2)
    places = [tmp_path / "run" / f"seed-{seed}" for seed in (7, 8)]
    assert trained == [7, 8] and len(stored) == 1 and "seed 7" in found.protocol
    tables = [pd.read_csv(place / run_folder.PREDICTIONS) for place in places]
    assert tables[0]["song_id"].equals(tables[1]["song_id"])
    assert not (system_predictions(tables[0], "model") == system_predictions(tables[1], "model")).any()
    for side in ("train", "validation", "test"):
        lists = [(place / run_folder.SPLITS / f"{side}.txt").read_text() for place in places]
        assert lists[0] == lists[1]
    scores = [run_folder.read_results(place)["test_valence_rmse"] for place in places]
    row = found.comparison.scores.iloc[0]
    assert row["valence_rmse"] == pytest.approx(sum(scores) / 2, rel=1e-4)
    assert (tmp_path / "run" / run_folder.COMPARISON_TABLE).is_file()

    # Finished seeds stay, a seed that was cut short is trained again, and more seeds are added.
    (places[1] / run_folder.RESULTS).unlink()
    again = run_seeds(config("--seed", "7"), 3)
    assert trained == [7, 8, 8, 9]
    assert "(3 seeds)" in again.comparison.scores.index[0]
    twice = pd.read_csv(places[1] / run_folder.PREDICTIONS)
    pd.testing.assert_frame_equal(twice, tables[1])  # the same seed, the same predictions

    with pytest.raises(UsageError, match=r"weight_decay is 0\.5 here"):
        run_seeds(config("--seed", "7", "--weight_decay", "0.5"), 2)


@pytest.mark.parametrize(
    ("flags", "count", "message"),
    [((), 1, "must be at least 2, got 1"), (("--push_to_hub",), 2, "leave out push_to_hub")],
)
def test_what_is_no_series_is_refused_before_any_work(config, monkeypatch, flags, count, message):
    monkeypatch.setattr(inputs, "load_collection", lambda *_: pytest.fail("songs were read first"))
    with pytest.raises(UsageError, match=message):
        run_seeds(config(*flags), count)


def test_a_folder_with_a_run_is_left_alone(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / run_folder.RESULTS).write_text("{}")
    with pytest.raises(UsageError, match=r"holds another run, without seeds\.json"):
        run_seeds(config(), 2)
