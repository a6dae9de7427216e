"""The study of serving, in brief: real servers, real kills, every request counted."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vitquant.artifact import open_artifact
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.results import form
from vitquant.results.serving import OK, REFUSED, Serving
from vitquant.serving.spawned import spawned
from vitquant.serving.study import Parts

OWN, OTHER = "vitquant-int8", "second"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["serving", *map(str, arguments)])


def test_it_measures_all_there_is_and_counts_every_request(artifacts: Path, prepared: Prepared, tmp_path: Path) -> None:
    folders = ("--artifacts", artifacts, "--data", prepared.path, "--out", tmp_path)
    result = run("--brief", "--recipe", OWN, "--fallback", OTHER, *folders)
    assert result.exit_code == 0, result.output
    found = form.read(tmp_path / "serving.json", Serving)
    assert found.brief
    assert found.artifacts == {OWN: open_artifact(artifacts / OWN).sha256}
    assert [each.server.max_batch for each in found.throughput if each.server.workers == 1] == [1, 8]
    assert all(set(each.outcomes) == {OK} for each in found.throughput)
    assert [each.share for each in found.rates] == [0.6, 1.0, 3.0]
    for rate in found.rates:
        for arrivals in rate.rounds:
            assert set(arrivals.outcomes) <= {OK, REFUSED}
            assert arrivals.recipes.get(OWN, 0) == len(arrivals.latency_ms)
    assert found.paths.pixels_split
    assert found.paths.bare_split
    assert set(found.paths.cpu_ms) == {"web", "decoder", "worker"}
    assert found.disturbed == {}
    kills = found.kills
    assert len(kills.again_s) == len(kills.own_s) == 1
    assert kills.again_s[0] <= kills.own_s[0]
    assert set(kills.outcomes) <= {OK, REFUSED}
    assert kills.counted == kills.outcomes[OK] == sum(kills.recipes.values())
    assert kills.recipes[OWN]
    assert found.soak.requests[0] < found.soak.requests[1] == found.soak.outcomes[OK]


def test_a_disturbed_part_is_measured_once_more() -> None:
    said: list[str] = []
    quiet, busy = Parts(100, said.append), Parts(-1, said.append)  # others never have less than nothing
    assert quiet.measure("a part", iter([1, 2]).__next__) == 1
    assert said == ["a part"]
    assert busy.measure("another", iter([1, 2]).__next__) == 2
    assert list(busy.disturbed) == ["another"]
    assert not quiet.disturbed


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="does not become ready: Error: .*recipe.json"), spawned(tmp_path, tmp_path):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fallback", OWN), "name another"),
        (("--artifacts", "nowhere"), "nowhere"),
        ((), "models/recipes"),
        (("--device", "cuda"), "params.yaml"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*options)
    assert (result.exit_code, said in result.output) == (1, True), result.output
    assert len(result.output.splitlines()) == 1
