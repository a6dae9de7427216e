import numpy as np
import pytest

from vitquant.analysis import statistics
from vitquant.results.hits import discordant, hits


def flags(true: int, false: int) -> np.ndarray:
    return np.array([True] * true + [False] * false, dtype=bool)


def test_hits_at_k() -> None:
    logits = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [1.0, 1.0, 0.0]], np.float32)
    labels = np.array([1, 1, 0])
    assert hits(logits, labels, 1).tolist() == [True, False, False]  # a tie goes against the model
    assert hits(logits, labels, 2).tolist() == [True, True, True]
    assert not hits(np.full((2, 3), np.nan, np.float32), np.array([0, 1]), 2).any()


def test_wilsons_interval() -> None:
    """15 of 148: 6.2 % to 16.0 % (Newcombe 1998, Statistics in Medicine 17:857, table I, method 3)."""
    estimate = statistics.proportion(flags(15, 133))
    assert estimate.value == pytest.approx(10.14, abs=0.01)
    assert (estimate.low, estimate.high) == pytest.approx((6.24, 16.05), abs=0.01)


def test_mcnemar_is_the_binomial_test_on_discordant_pairs() -> None:
    ours = np.concatenate([flags(20, 0), flags(8, 0), flags(0, 2)])
    theirs = np.concatenate([flags(20, 0), flags(0, 8), flags(2, 0)])
    assert discordant(ours, theirs) == (8, 2)
    assert statistics.mcnemar_p(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert statistics.mcnemar_p(0, 0) == 1.0


def pairs(gained: int, lost: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of a recipe and of the baseline, with so many discordant images."""
    same = total - gained - lost
    ours = np.concatenate([flags(gained, 0), flags(0, lost), flags(same, 0)])
    return ours, np.concatenate([flags(0, gained), flags(lost, 0), flags(same, 0)])


def test_a_paired_difference_brackets_the_normal_interval() -> None:
    estimate = statistics.paired_difference(*pairs(gained=100, lost=400, total=10_000))
    assert estimate.value == pytest.approx(-3.0)
    error = 100 * np.sqrt((0.05 - 0.03**2) / 10_000)
    assert (estimate.low, estimate.high) == pytest.approx((-3 - 1.96 * error, -3 + 1.96 * error), abs=0.02)


def test_the_ends_of_a_paired_difference_are_those_that_the_score_test_just_rejects() -> None:
    for gained, lost, total in ((4, 2, 1050), (0, 5, 20), (12, 13, 1050)):
        estimate = statistics.paired_difference(*pairs(gained, lost, total))
        for end, score in ((estimate.low, 1.96), (estimate.high, -1.96)):
            assert statistics.tango_score(gained, lost, total, end / 100) == pytest.approx(score, abs=1e-3)


def test_no_discordant_image_leaves_room_for_a_difference() -> None:
    """z² / (n + z²), in percent."""
    estimate = statistics.paired_difference(*pairs(0, 0, 1050))
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((-0.3645, 0, 0.3645), abs=1e-3)
    assert statistics.paired_difference(*pairs(20, 0, 20)).high == 100
    assert statistics.paired_difference(*pairs(0, 20, 20)).low == -100


def test_a_paired_difference_holds_the_truth_in_95_of_100_studies() -> None:
    """Of 300 images, one in ten discordant, a true loss of 2 points; the seed is fixed."""
    draws = np.random.default_rng(0).multinomial(300, [0.04, 0.06, 0.9], size=1000)
    held = [abs(statistics.tango_score(int(b), int(c), 300, -0.02)) <= 1.96 for b, c, _ in draws]
    assert 0.935 <= np.mean(held) <= 0.965


def test_holms_correction() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_power_of_a_test_of_non_inferiority() -> None:
    """Against a simulation of the score test: 2 % of 4,000 images discordant, a margin of 0.5 points, no true loss."""
    draws = np.random.default_rng(0).multinomial(4000, [0.01, 0.01, 0.98], size=2000)
    shown = np.mean([statistics.tango_score(int(b), int(c), 4000, -0.005) > 1.96 for b, c, _ in draws])
    assert statistics.non_inferiority_power(0.02, 4000, 0.005) == pytest.approx(shown, abs=0.04)
    images = statistics.non_inferiority_images(0.02, 0.005)
    assert statistics.non_inferiority_power(0.02, images, 0.005) == pytest.approx(0.8, abs=0.001)


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that doubles its pace half-way changes every time, and no ratio."""
    pace = np.array([1.0] * 10 + [2.0] * 10)
    estimate = statistics.paired_ratio([30 * pace, 30 * pace[::-1]], [10 * pace, 10 * pace[::-1]])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((3, 3, 3), abs=1e-12)
    assert estimate.unit == "×"


def test_a_ratio_by_hand() -> None:
    """Median ratios 2, 4 and 8 of three launches: powers of two with exponents 1, 2, 3, whose deviation is 1."""
    above = [np.array([2.0, 100.0, 1.0]), np.array([4.0, 8.0, 12.0]), np.array([80.0, 8.0, 0.8])]
    below = [np.ones(3), np.array([1.0, 2.0, 3.0]), np.array([10.0, 1.0, 0.1])]
    estimate = statistics.paired_ratio(above, below)
    reach = 4.302653 / np.sqrt(3)  # Student's t, two degrees of freedom
    assert np.log2([estimate.low, estimate.value, estimate.high]) == pytest.approx([2 - reach, 2, 2 + reach], abs=1e-6)


def launches(rng: np.random.Generator, *rounds: int) -> list[np.ndarray]:
    return [np.exp(rng.normal(2, 0.2, count)) for count in rounds]


def test_a_ratio_turned_over_is_the_reciprocal_and_a_unit_of_time_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = launches(rng, 8, 8, 8), launches(rng, 8, 8, 8)
    estimate, reverse = statistics.paired_ratio(ours, theirs), statistics.paired_ratio(theirs, ours)
    assert (1 / reverse.high, 1 / reverse.value, 1 / reverse.low) == pytest.approx(
        (estimate.low, estimate.value, estimate.high)
    )
    scaled = statistics.paired_ratio([1000 * launch for launch in ours], theirs)
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(
        (1000 * estimate.low, 1000 * estimate.value, 1000 * estimate.high)
    )


def test_only_launches_and_rounds_that_both_have_are_paired() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = launches(rng, 8, 3, 5, 8), launches(rng, 6, 8, 5)
    shared = [launch[:count] for launch, count in zip(ours, (6, 3, 5), strict=False)]
    assert statistics.paired_ratio(ours, theirs) == statistics.paired_ratio(
        shared, [launch[:count] for launch, count in zip(theirs, (6, 3, 5), strict=True)]
    )


def test_of_one_launch_the_rounds_are_the_units() -> None:
    """A recipe that was far too slow has a few rounds of the first launch, whatever the other has."""
    rng = np.random.default_rng(0)
    slow, other = launches(rng, 3), launches(rng, 8, 8, 8, 8, 8)
    logs = np.log(slow[0] / other[0][:3])
    reach = 4.302653 * np.std(logs, ddof=1) / np.sqrt(3)
    estimate = statistics.paired_ratio(slow, other)
    assert np.log([estimate.low, estimate.value, estimate.high]) == pytest.approx(
        [logs.mean() - reach, logs.mean(), logs.mean() + reach], abs=1e-6
    )


def test_launches_that_differ_widen_an_interval_that_rounds_alone_would_leave_narrow() -> None:
    """The same twenty ratios, once as four launches that differ, once shuffled over four."""
    ratios = np.repeat([1.9, 2.0, 2.2, 2.4], 5)
    shuffled = np.random.default_rng(0).permutation(ratios)
    apart, mixed = (statistics.paired_ratio(np.split(each, 4), np.split(np.ones(20), 4)) for each in (ratios, shuffled))
    assert apart.high - apart.low > 1.5 * (mixed.high - mixed.low)


def test_two_units_far_apart_give_an_interval_that_ends() -> None:
    estimate = statistics.paired_ratio([np.array([1.0, 100.0])], [np.array([1.0, 1.0])])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.01, 10, 10_000))


def test_a_mean_by_hand() -> None:
    """Means 10, 12 and 14 of launches of unequal length: deviation 2."""
    times = [np.array([9.0, 11.0]), np.array([12.0, 12.0, 12.0]), np.array([5.0, 5.0, 32.0])]
    estimate = statistics.mean_ms(times)
    reach = 4.302653 * 2 / np.sqrt(3)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((12 - reach, 12, 12 + reach), abs=1e-5)
    shifted = statistics.mean_ms([3 * launch + 50 for launch in times])
    assert (shifted.low, shifted.value, shifted.high) == pytest.approx((86 - 3 * reach, 86, 86 + 3 * reach), abs=1e-5)
    alone = statistics.mean_ms([np.array([10.0, 12.0, 14.0])])
    assert alone == statistics.mean_ms([np.full(2, value) for value in (10.0, 12.0, 14.0)])
    assert statistics.mean_ms([np.array([1.0, 9.0])]).low == 0  # no time is below 0


def test_an_interval_over_launches_holds_the_truth_in_95_of_100_runs() -> None:
    """Five launches of three rounds that differ by 5 % in what all their rounds share; the seed is fixed."""
    rng = np.random.default_rng(0)
    logs = np.log(3) + rng.normal(0, 0.05, (1000, 5, 1)) + rng.normal(0, 0.02, (1000, 5, 3))
    found = [statistics.paired_ratio(list(np.exp(run)), [np.ones(3)] * 5) for run in logs]
    assert 0.935 <= np.mean([estimate.low <= 3 <= estimate.high for estimate in found]) <= 0.965


def test_a_distribution() -> None:
    """Of all 101 values together; the medians 26, 76 and 101 are 50, 0 and 25 from the middle one."""
    values = np.arange(1.0, 102.0)
    assert statistics.distribution([values[:51], values[51:100], values[100:]]) == pytest.approx(
        {"p50": 51, "p90": 91, "p99": 100, "spread_pct": 100 * 1.482602 * 25 / 76}, abs=1e-4
    )
    alone = statistics.distribution([values])
    assert alone["spread_pct"] == pytest.approx(100 * 1.482602 * 25 / 51, abs=1e-4)
    assert statistics.distribution([np.full(2, 7.0)] * 3)["spread_pct"] == 0
