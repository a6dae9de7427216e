"""Every quantity has one key, and is found in the part that it belongs to."""

import handmade

from vitquant.analysis.columns import ACCURACY, FOOTPRINT, SPEED, interval_key
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Rival, Speed

NOT_COLUMNS = ("device", "way", "memory_peak_range_mb", "memory_model_range_mb")  # words, and ranges beside a column


def test_every_value_of_a_part_has_its_column_and_no_column_another_ones() -> None:
    """What is not set in the study made by hand is set here."""
    own = handmade.study().recipes["vitquant-int8"]
    assert own.accuracy
    assert own.footprint
    parts = (
        (
            ACCURACY,
            own.accuracy.model_copy(
                update={
                    "own_images": 14,
                    "undecided_images": 15,
                    "large_batch": 32,
                    "top1_large_batch": Estimate(value=70.0, low=60.0, high=80.0, unit="%"),
                    "top1_delta_large_batch": Estimate(value=-1.0, low=-3.0, high=1.0, unit="pp"),
                    "agreement_large_batch_pct": 90.0,
                    "nearest_agreement_pct": 97.0,
                }
            ),
        ),
        (
            SPEED,
            own.at(8).model_copy(
                update={
                    "energy_mj": 1.5,
                    "gproducts_per_s": 2.5,
                    "register_pct": 3.5,
                    "from_file_ms": 4.5,
                    "memory_peak_mb": 9.0,
                }
            ),
        ),
        (FOOTPRINT, own.footprint.model_copy(update={"memory_process_mb": 400.0})),
    )
    for section, part in parts:
        values = {
            name: value.ratio if isinstance(value, Rival) else value
            for name, value in dict(part).items()
            if name not in NOT_COLUMNS
        }
        found = [column.of(part) for column in section]  # type: ignore[arg-type]
        assert sorted(map(repr, found)) == sorted(map(repr, values.values()))
        assert None not in found
        for column, value in zip(section, found, strict=True):
            format(value.value if isinstance(value, Estimate) else value, column.form)


def test_a_part_that_has_little_is_shown_with_gaps() -> None:
    top1 = Estimate(value=80.0, low=70.0, high=90.0, unit="%")
    accuracy = Accuracy(device="cpu", top1=top1)
    assert [column.of(accuracy) for column in ACCURACY] == [top1] + [None] * 18
    speed = Speed(p50_ms=1.0, p90_ms=2.0, p99_ms=3.0, spread_pct=4.0, images_per_s=5.0)
    assert [found for column in SPEED if (found := column.of(speed))] == [1.0, 2.0, 3.0, 4.0, 5.0]
    footprint = Footprint(memory_model_mb=1.0, memory_peak_mb=2.0, size_mb=3.0)
    assert [column.of(footprint) for column in FOOTPRINT] == [1.0, 2.0, None, 3.0, None]


def test_keys_and_titles_are_unique() -> None:
    section = (*ACCURACY, *SPEED, *FOOTPRINT)
    keys = [column.key for column in section] + [interval_key(column.key) for column in section]
    assert len(set(keys)) == len(keys)
    assert len({column.title for column in section}) == len(section)
    for column in SPEED:
        assert column.key.count("{b}") == 1


def test_the_key_of_an_interval_keeps_the_unit_last() -> None:
    assert interval_key("top1_delta_pp") == "top1_delta_ci95_pp"
    assert interval_key("latency_b1_mean_ms") == "latency_b1_mean_ci95_ms"
