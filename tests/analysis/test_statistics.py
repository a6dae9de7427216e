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
    noise = np.random.default_rng(0).normal(1, 0.01, 20)
    estimate = statistics.paired_ratio(30 * pace * noise, 10 * pace, 2000, seed=0)
    assert estimate.value == pytest.approx(3.0, abs=0.03)
    assert 2.9 < estimate.low <= estimate.value <= estimate.high < 3.1
    assert estimate == statistics.paired_ratio(30 * pace * noise, 10 * pace, 2000, seed=0)


def test_a_distribution() -> None:
    assert statistics.distribution(np.arange(1.0, 102.0)) == pytest.approx(
        {"p50": 51, "p90": 91, "p99": 100, "cv_pct": 100 * np.std(np.arange(101), ddof=1) / 51}
    )
