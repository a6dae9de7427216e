"""Load on a real server; what is counted of answers whose times are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from vitquant.cli import main
from vitquant.serving import loads, loadtest
from vitquant.serving.loadtest import Sent

from .running import Running, serve


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["loadtest", *map(str, arguments)])


@pytest.mark.parametrize(
    "options", [("--clients", 2), ("--rate", 10), ("--clients", 2, "--send", "pixels", "--each", 3)]
)
def test_every_request_is_counted(server: Running, images: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    before = server.metric('vitquant_requests_total{endpoint="infer",status="200"}')
    out = tmp_path / "load.json"
    result = run(server.url, "--images", images / "disc", "--seconds", 1, "--out", out, *options)
    assert result.exit_code == 0, result.output
    load = loads.Load.model_validate(json.loads(out.read_text()))
    after = server.metric('vitquant_requests_total{endpoint="infer",status="200"}')
    assert load.requests == load.outcomes["200"] == load.recipes["vitquant-int8"] == after - before > 0
    assert "answered by vitquant-int8" in result.output
    assert load.latency_ms["p50"].low <= load.latency_ms["p50"].value <= load.latency_ms["p99"].value


def test_an_open_loop_counts_from_when_a_request_was_to_be_sent(artifacts: Path, images: Path, tmp_path: Path) -> None:
    with serve(tmp_path, artifacts / "vitquant-int8", deadline_ms=60_000, queue=2) as running:
        running.warm("vitquant-int8")
        (worker,) = running.children("worker")
        worker.suspend()
        result = run(running.url, "--images", images / "disc", "--seconds", 1, "--rate", 20, "--timeout", 2)
        assert result.exit_code == 0, result.output
        assert "503: " in result.output
        assert "timeout: 3" in result.output  # one in the worker, two in the queue
        assert "answered by none" in result.output


def test_poisson_arrivals() -> None:
    times = np.array(loadtest.arrivals(100, 1000, 1))
    gaps = np.diff(times)
    assert times.min() >= 0 and times.max() < 1000
    assert np.mean(gaps) == pytest.approx(0.01, rel=0.02)
    assert np.std(gaps) == pytest.approx(0.01, rel=0.02)  # of exponential gaps the same
    assert loadtest.arrivals(100, 1000, 1) == times.tolist() != loadtest.arrivals(100, 1000, 2)


def test_percentiles_and_outcomes() -> None:
    rng = np.random.default_rng(0)
    sent = [Sent(at, float(rng.uniform(0, 0.1)), "200", "a" if at < 50 else "b") for at in np.arange(0, 100, 0.02)]
    sent += [Sent(1.0, 9.0, "503", None), Sent(2.0, 30.0, "timeout", None)]
    load = loads.summarize(sent, 100, 1, None, 50)
    assert load.outcomes == {"200": 5000, "503": 1, "timeout": 1}
    assert load.recipes == {"a": 2500, "b": 2500}
    assert load.images_per_s == pytest.approx(50, rel=0.01)
    for name, value in (("p50", 50), ("p95", 95), ("p99", 99)):
        found = load.latency_ms[name]
        assert found.low <= value <= found.high
        assert found.high - found.low < 6
    assert loads.summarize(sent[-2:], 100, 1, 2, None).latency_ms == {}


def test_wrong_use_is_one_line(server: Running, images: Path) -> None:
    for url, options, said in (
        (server.url, ("--clients", 1, "--rate", 1), "give one of them"),
        ("http://127.0.0.1:9", (), "is no server of vitquant's"),
        ("nonsense", (), "is no server of vitquant's"),
    ):
        result = run(url, "--images", images, *options)
        assert (result.exit_code, said in result.output) == (1, True), result.output
        assert len(result.output.splitlines()) == 1
