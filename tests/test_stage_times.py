from pathlib import Path

from vitquant import stage_times


def test_a_recipe_that_is_new_takes_what_others_take() -> None:
    known = {"evaluate@fp32": 40.0, "evaluate@dynamic-int8": 20.0, "report": 5.0}
    assert stage_times._usual("evaluate@fp32", known) == 40
    assert stage_times._usual("evaluate@mine", known) == 30
    assert stage_times._usual("benchmark", known) == 0


def test_what_follows_a_stage() -> None:
    edges = [("a", "b"), ("b", "d"), ("c", "d"), ("d", "e"), ("x", "y")]
    assert sorted(stage_times.after(["a", "c"], edges)) == ["b", "d", "e"]


def test_the_times_of_a_run_are_kept_beside_those_of_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path))
    stage_times.record("mine", {"fetch": 1.26, "report": 2.0})
    stage_times.record("yours", {"fetch": 9.0})
    stage_times.record("mine", {"report": 3.0})
    assert stage_times._read_own() == {"mine": {"fetch": 1.3, "report": 3.0}, "yours": {"fetch": 9.0}}
    (tmp_path / "times.json").write_text("[")
    assert stage_times._read_own() == {}
