from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emotion_ft.data.collections.annotations import Curve, read_dynamic, read_static
from emotion_ft.data.collections.exchange import (
    check_columns,
    exchanged_songs,
    find_exchanged,
    is_known_block,
    paired_means,
    range_of_ends,
    repair,
)

DEAM = Path(__file__).resolve().parents[4] / "shared" / "deam"
CORRELATION = 0.5  # of valence and arousal, as in DEAM


def collection(songs=400, exchanged=(), noise=0.3, seed=0):
    """Means of a collection with ids 3, 6, 9, ... whose static columns are exchanged in a range of ids."""
    rng = np.random.default_rng(seed)
    emotion = rng.multivariate_normal([0, 0], [[1, CORRELATION], [CORRELATION, 1]], songs)
    static = 5 + 1.2 * (emotion + noise * rng.normal(size=emotion.shape))
    curves = 0.1 + 0.25 * (emotion + noise * rng.normal(size=emotion.shape))
    ids = pd.Index(3 * np.arange(1, songs + 1), name="song_id")
    if exchanged:
        inside = (ids >= exchanged[0]) & (ids <= exchanged[1])
        static[inside] = static[inside][:, ::-1]
    return pd.DataFrame(np.hstack([static, curves]), ids, ["valence", "arousal", "curve_valence", "curve_arousal"])


class TestFinding:
    @pytest.mark.parametrize("exchanged", [(300, 600), (3, 450), (900, 1200)])
    def test_finds_a_range_anywhere(self, exchanged):
        found = find_exchanged(collection(exchanged=exchanged))
        assert found.verdict == "exchanged" and found.high < -0.5
        assert abs(found.first - exchanged[0]) <= 15 and abs(found.last - exchanged[1]) <= 15  # five songs

    def test_finds_that_all_are_exchanged(self):
        found = find_exchanged(collection(exchanged=(0, 9999)))
        assert found.songs > 390 and found.verdict == "exchanged"

    @pytest.mark.parametrize("seed", range(10))
    def test_leaves_alone_what_is_in_order(self, seed):
        assert find_exchanged(collection(seed=seed)) is None

    def test_leaves_alone_what_is_unrelated(self):
        found = 0
        for seed in range(40):
            means = collection(seed=seed)
            means[["valence", "arousal"]] = np.random.default_rng(1000 + seed).normal(5, 1, (len(means), 2))
            found += find_exchanged(means) is not None
        assert found <= 2  # the interval alone, of a range chosen for its sum, would accept more than half

    def test_decides_nothing_from_a_handful_or_from_constants(self):
        assert find_exchanged(collection(songs=9, exchanged=(0, 99))) is None
        constant = collection()
        constant[["valence", "arousal"]] = 5.0
        assert find_exchanged(constant) is None
        assert find_exchanged(collection().iloc[:0]) is None


class TestEnds:
    def test_intervals_cover_the_truth(self):
        covered = np.zeros(2)
        for seed in range(40):
            first, last = range_of_ends(collection(exchanged=(300, 600), noise=0.6, seed=seed), seed)
            covered += first[0] <= 300 <= first[1], last[0] <= 600 <= last[1]
        assert covered.min() >= 34

    def test_noise_makes_them_wider(self):
        widths = [np.diff(range_of_ends(collection(exchanged=(300, 600), noise=noise))).max() for noise in (0.1, 1.0)]
        assert widths[0] < 30 and widths[1] > 2 * widths[0]  # ten songs

    def test_the_ends_of_the_collection_are_possible(self):
        first, last = range_of_ends(collection(exchanged=(0, 9999)))
        assert first[0] == 3 and last[1] == 1200


class TestChecking:
    def test_correlations_are_those_of_numpy(self):
        means = collection(exchanged=(300, 600))
        check = check_columns(means, 300, 600)
        block = means.loc[300:600]
        assert check.songs == len(block)
        r = np.corrcoef(block.to_numpy().T)
        assert [check.valence, check.arousal] == pytest.approx([r[0, 2], r[1, 3]])
        assert [check.crossed_valence, check.crossed_arousal] == pytest.approx([r[0, 3], r[1, 2]])
        z = (means - means.mean()) / means.std(ddof=0)
        static, curves = z["valence"] - z["arousal"], z["curve_valence"] - z["curve_arousal"]
        assert check.difference == pytest.approx(np.corrcoef(static.loc[300:600], curves.loc[300:600])[0, 1])
        assert check.low < check.difference < check.high

    def test_verdicts(self):
        means = collection(exchanged=(300, 600))
        assert check_columns(means, 300, 600).verdict == "exchanged"
        assert check_columns(means, 601, 1200).verdict == "in order"
        assert check_columns(means, 300, 310).verdict == "undecided"

    def test_the_interval_covers(self):
        truth = np.corrcoef(*difference(collection(songs=100_000, noise=1.0)))[0, 1]
        checks = [check_columns(collection(songs=120, noise=1.0, seed=seed), 0, 9999) for seed in range(1, 121)]
        covered = np.mean([check.low <= truth <= check.high for check in checks])
        assert covered == pytest.approx(0.95, abs=0.06)


def difference(means):
    z = (means - means.mean()) / means.std(ddof=0)
    return z["valence"] - z["arousal"], z["curve_valence"] - z["curve_arousal"]


def test_means_are_of_songs_with_both_annotations():
    static = pd.DataFrame({"valence": [4.0, 6.0], "arousal": [5.0, 7.0]}, pd.Index([2, 5], name="song_id"))
    curve = Curve(15.0, 0.5, np.array([0.1, 0.3], np.float32), np.array([-0.2, 0.0], np.float32))
    means = paired_means(static, {5: curve, 9: curve})
    assert means.index.tolist() == [5]
    assert means.loc[5].tolist() == pytest.approx([6.0, 7.0, 0.2, -0.1])


@pytest.mark.skipif(not DEAM.is_dir(), reason="DEAM's annotations are not available")
class TestDeam:
    def test_the_exchange_is_in_the_first_thousand_ids_and_nowhere_else(self):
        static, dynamic = read_static(DEAM), read_dynamic(DEAM)
        means = paired_means(static, dynamic)
        found = find_exchanged(means)
        assert found.first <= 5 and 995 <= found.last <= 1005 and found.high < -0.8
        assert find_exchanged(means.loc[1001:]) is None
        assert [check_columns(means, *ends).verdict for ends in ((2, 1000), (1001, 2000), (2001, 2058))] == [
            "exchanged",
            "in order",
            "in order",
        ]

    def test_the_ends_by_the_curves_include_those_of_the_block(self):
        first, last = range_of_ends(paired_means(read_static(DEAM), read_dynamic(DEAM)))
        assert first[0] == 2 and first[1] <= 10 and 990 <= last[0] <= 1000 <= last[1] <= 1010

    def test_without_curves_its_own_file_is_recognised(self):
        static, dynamic = read_static(DEAM), read_dynamic(DEAM)
        exchange = exchanged_songs(static, {})
        assert exchange.decided and exchange.recognised and len(exchange.ids) == 744
        pd.testing.assert_frame_equal(repair(static, {}), repair(static, dynamic))
        assert not exchanged_songs(static, dynamic).recognised
        for other in (repair(static, dynamic), static.drop(index=500), static.loc[1001:], static + 0.01):
            assert not is_known_block(other) and not exchanged_songs(other, {}).decided

    def test_its_own_file_is_recognised_however_it_is_written(self, tmp_path):
        static = read_static(DEAM).loc[:1000].rename(columns={name: f"{name}_mean" for name in ("valence", "arousal")})
        table = static.reset_index()[::-1].map(lambda number: f"  {number:g} ")
        table.to_csv(tmp_path / "static_annotations_averaged_songs_1_2000.csv", index=False, lineterminator="\r\n")
        assert is_known_block(read_static(tmp_path))

    def test_repaired_labels_are_in_order(self):
        dynamic = read_dynamic(DEAM)
        means = paired_means(repair(read_static(DEAM), dynamic), dynamic)
        assert find_exchanged(means) is None
        whole = check_columns(means, 2, 2058)
        assert whole.valence >= 0.90 and whole.arousal >= 0.87
