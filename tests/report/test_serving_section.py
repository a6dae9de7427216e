"""The server under load in the report: a measurement made by hand, its figure, its section and its verdicts."""

from pathlib import Path

import handmade
import matplotlib as mpl
import numpy as np
import pytest

from vitquant.analysis import advice, claims, load, rules
from vitquant.analysis import serving as analysis
from vitquant.analysis.findings import Estimate
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import Params
from vitquant.report import build, figures_serving, style
from vitquant.report.serving_section import BRIEF, NONE, section
from vitquant.results import form
from vitquant.results.serving import Arrivals, Kills, Paths, Rate, Server, Serving, Soak, Throughput

NAMES = ("dynamic-int8", "fp32")
SPEEDS = [40.0, 41.0, 39.0]


def throughput(recipe: str, workers: int, batch: int, times: float) -> Throughput:
    """With one worker and batch limit 1 SPEEDS, else so many times as much, to 1 %."""
    noise = [1.0, 1.01, 0.99] if times != 1 else [1.0] * 3
    speeds = [speed * times * each for speed, each in zip(SPEEDS, noise, strict=True)]
    server = Server(recipe=recipe, workers=workers, threads=2, max_batch=batch)
    return Throughput(server=server, clients=4, images_per_s=speeds, outcomes={"200": 300})


def rate(recipe: str, share: float, ms: float, refused: int = 0) -> Rate:
    """A hundred answers in ten seconds, of about `ms`."""
    times = np.random.default_rng(0).normal(ms, ms / 50, 100).tolist()
    outcomes = {"200": 100} | ({"503": refused} if refused else {})
    at = np.arange(0, 10, 0.1).tolist()
    arrivals = Arrivals(seconds=10.0, at_s=at, latency_ms=times, outcomes=outcomes, recipes={recipe: 100})
    return Rate(recipe=recipe, share=share, rate=40 * share, rounds=[arrivals])


def serving(batch8: float = 0.8, kills: dict[str, object] | None = None, **changes: object) -> Serving:
    """Over HTTP JPEGs have 0.95 times the throughput of `predict`, pixels 0.9 times that of the bare model."""
    made = Serving(
        date="2026-11-27",
        environment=handmade.ENVIRONMENT,
        conditions=handmade.CONDITIONS,
        artifacts=dict.fromkeys(NAMES, handmade.DIGEST),
        starts_s=[2.0, 2.5],
        throughput=[
            throughput(name, workers, batch, times)
            for name in NAMES
            for workers, batch, times in ((1, 1, 1.0), (2, 1, 1.2), (1, 8, batch8))
        ],
        rates=[
            rate(NAMES[0], 0.6, 50),
            rate(NAMES[0], 1.0, 200),
            rate(NAMES[0], 3.0, 500, 200),
            rate(NAMES[1], 0.6, 90),
        ],
        paths=Paths(
            predict=SPEEDS,
            files=[0.951 * SPEEDS[0], 0.95 * SPEEDS[1], 0.949 * SPEEDS[2]],
            bare=SPEEDS,
            pixels=[0.901 * SPEEDS[0], 0.9 * SPEEDS[1], 0.899 * SPEEDS[2]],
            bare_ms=[[25.0, 25.1], [24.9, 25.0]],
        ),
        kills=Kills(
            **{
                "fallback": "fp32", "every": 6.0, "outcomes": {"200": 990, "503": 10},
                "recipes": {NAMES[0]: 900, "fp32": 90}, "counted": 990, "again_s": [0.1, 0.2], "own_s": [0.8, 0.9],
            } | (kills or {})
        ),
        soak=Soak(
            architecture="test_vit", method="vitquant_int8", requests=[100, 500, 1000],
            resident_bytes=[400_000_000, 410_000_000, 412_000_000], outcomes={"200": 1000}, seconds=3.0,
        ),
    )  # fmt: skip
    return made.model_copy(update=changes)


def verdict(found: Serving | None, what: str) -> tuple[str, str]:
    audited = {each.claim.what: each for each in claims.audit(handmade.findings(), serving=found)}[what]
    return audited.verdict, audited.reason


@pytest.mark.parametrize(
    ("batch8", "expected"), [(1.3, rules.REPRODUCED), (0.8, rules.MISSED), (1.001, rules.INCONCLUSIVE)]
)
def test_batches_are_judged_by_the_limit_that_was_chosen_before(batch8: float, expected: str) -> None:
    assert verdict(serving(batch8), "batching for throughput")[0] == expected
    measured = claims.audit(handmade.findings(), serving=serving(batch8))[-3].measured
    assert measured
    assert isinstance(measured.value, Estimate)
    assert measured.value.value == pytest.approx(batch8, rel=0.01)
    assert measured.where.startswith("`dynamic-int8` over HTTP, saturated: batch limit 8 over 1; `fp32` ")


def test_failures_are_handled_where_nothing_is_lost_or_doubled_and_it_soon_serves() -> None:
    what = "error handling and fallback"
    good, reason = verdict(serving(), what)
    assert good == rules.REPRODUCED
    assert "after at most 0.20 s, by `dynamic-int8` itself, as without a fallback, after 0.90 s" in reason
    lost = serving(kills={"outcomes": {"200": 990, "connection": 3}})
    assert verdict(lost, what) == (rules.MISSED, "3 requests were lost, 0 answered twice")
    assert verdict(serving(kills={"counted": 992}), what) == (rules.MISSED, "0 requests were lost, 2 answered twice")
    assert verdict(serving(kills={"again_s": [0.1, 5.1]}), what)[0] == rules.MISSED
    assert verdict(None, what) == verdict(None, "batching for throughput") == (rules.UNMEASURED, advice.UNKNOWN)


def test_goals() -> None:
    goals = {goal.what: goal for goal in analysis.goals(serving())}
    verdicts = [goal.verdict for goal in goals.values()]
    assert verdicts == ["reached", "missed", "reached", "missed", "reached", "reached", "reached", "reached", "reached"]
    p99 = goals["p99 at 60 % of capacity, against the bare median"].measured
    assert isinstance(p99, Estimate)
    assert p99.value == pytest.approx(2.1, abs=0.1)
    wide = serving(batch8=1.0).model_copy(deep=True)
    wide.paths.files = [0.8 * SPEEDS[0], 0.9 * SPEEDS[1], 1.0 * SPEEDS[2]]
    assert analysis.goals(wide)[0].verdict == "not shown"
    wide.paths.bare_split, wide.paths.pixels_split = SPEEDS, [0.961 * SPEEDS[0], 0.96 * SPEEDS[1], 0.959 * SPEEDS[2]]
    assert [(goal.what, goal.verdict) for goal in analysis.goals(wide)][1:3] == [
        ("pixels over HTTP, against the bare model", "missed"),
        ("the same, with a worker, and a thread, for each core", "reached"),
    ]


def test_an_ideal_server_is_given_the_same_arrivals() -> None:
    found = serving()  # a request each 100 ms, which wait for nobody at 25 ms
    ideal = analysis.ideal(found)
    assert (ideal.service_ms, ideal.p99) == (25.0, pytest.approx(1.0))
    assert ideal.split_p99 == pytest.approx(2000 / 48.0 / 25.0)  # two workers of 48 images a second together
    assert ideal.ours.value == pytest.approx(2.1, abs=0.1)
    assert "to one that takes the bare median, 25.0 ms, for each, they have a p99 of 1.00 × that" in section(found)
    refusing = [rate(NAMES[0], 0.6, 50, refused=1), *found.rates[1:]]  # it is not known when those came
    assert analysis.ideal(serving(rates=refusing)) is None
    assert "bare median, 25.0 ms" not in section(serving(rates=refusing))


def test_the_section_shows_every_server_and_rate() -> None:
    text = section(serving())
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == (1 + 9) + (1 + 6) + (1 + 4)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (over,) = [row for row in cells if row[1] == "300"]
    assert over[2:4] == ["120.0", "300"]
    assert over[-3:] == ["66.7", "none", "dynamic-int8 100"]
    assert "990 were answered (dynamic-int8 900 and fp32 90) and 10 refused with 503; 0 were lost" in text
    assert "400 MB resident after 100 requests, 410 after 500 and 412 after all" in text
    assert BRIEF not in text
    assert "milliseconds of a core" not in text  # which older files do not have
    timed = serving().model_copy(deep=True)
    timed.paths.cpu_ms = {"web": 1.5, "decoder": 0.25, "worker": 40.0}
    assert "in milliseconds of a core: web 1.50 and decoder 0.25." in section(timed)
    assert section(serving(brief=True)).startswith(BRIEF)
    assert "`openvino` was not served: no \\| such engine." in section(
        serving(unavailable={"openvino": "no | such engine"})
    )


def gpu() -> Serving:
    """Of a GPU that takes 100 times as many images, by pixels alone."""
    made = serving(device="cuda", architecture="tiny_vit", soak=None, artifacts={NAMES[0]: handmade.DIGEST})
    speeds = [throughput(NAMES[0], 1, batch, times) for batch, times in ((1, 100.0), (8, 150.0))]
    return made.model_copy(
        update={
            "environment": handmade.ENVIRONMENT.model_copy(update={"gpu": "Loom", "cores": 16}),
            "throughput": [each.model_copy(update={"sent": "pixels"}) for each in speeds],
            "rates": [rate(NAMES[0], 0.6, 2.0, 25).model_copy(update={"sent": "pixels"})],
        }
    )


def test_gpus_stand_beside_this_machine_in_the_section() -> None:
    text = section(serving(), [gpu()])
    assert text.startswith(section(serving()))
    rest = text.removeprefix(section(serving()))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest.splitlines() if line[:2] == "| "]
    assert rows[0] == ["machine", "recipe", "request", "limit 1", "limit 8"]
    assert rows[1:4] == [
        ["Abacus", "dynamic-int8", "JPEG", "40", "32"],
        ["Abacus", "fp32", "JPEG", "40", "32"],
        ["Loom", "dynamic-int8", "pixels", "4,000", "6,000"],
    ]
    assert [row[3] for row in rows[4:]] == ["100 % is, requests/s", "40", "40", "40"]
    assert rows[-1][-1].startswith("2.0, 2.1 (20.0 % 503)")
    assert "Loom: `tiny_vit`, with 16 cores of Abacus" in rest
    assert "`dynamic-int8` was killed (SIGKILL) 2 times" in rest
    alone = section(None, [gpu()])
    assert alone.startswith(NONE)
    assert "Loom: `tiny_vit`" in alone
    assert "growth of its memory over the requests" not in {goal.what for goal in analysis.goals(gpu())}


def test_the_figure_has_a_line_per_recipe_and_percentile() -> None:
    with mpl.rc_context(style.STYLE):
        left, right = figures_serving.serving(serving()).axes
    lines = [line for line in left.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[24.0, 40.0]] * 2  # 300 % is left out
    assert [text.get_text() for text in right.get_xticklabels()] == ["1", "8"]


def test_only_what_is_of_these_artifacts_and_this_machine_is_shown(
    params: Params, prepared: Prepared, tmp_path: Path
) -> None:
    inputs, folder = handmade.stages(prepared, tmp_path), tmp_path / "serving"
    beside = build.Beside(serving=folder)
    assert NONE in build.markdown(params, build.read(params, inputs, beside), [])
    form.write(folder / "serving.json", serving())
    results = load.load(params, inputs)
    found = analysis.read(folder, results)
    assert found == serving()
    shown = build.markdown(params, build.read(params, inputs, beside), [])
    assert section(found) in shown
    assert "batching for throughput" in shown
    for changed in (
        {"artifacts": dict.fromkeys(NAMES, "cd" * 32)},
        {"environment": handmade.ENVIRONMENT.model_copy(update={"cpu": "Slide rule"})},
    ):
        form.write(folder / "serving.json", serving(**changed))
        assert analysis.read(folder, results) is None
    (folder / "serving.json").write_text('{"version": 3}')
    with pytest.raises(VitquantError, match="serving.json: .*make loadtest"):
        analysis.read(folder, results)


def test_a_file_of_a_gpu_is_shown_whatever_the_artifacts(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    inputs, folder = handmade.stages(prepared, tmp_path), tmp_path / "serving"
    form.write(folder / "loom.json", gpu())
    assert analysis.read_gpus(folder) == [gpu()]
    shown = build.markdown(params, build.read(params, inputs, build.Beside(serving=folder)), [])
    assert section(None, [gpu()]) in shown
    (folder / "loom.json").write_text('{"version": 3}')
    with pytest.raises(VitquantError, match="loom.json: .*vitquant serving --device cuda"):
        analysis.read_gpus(folder)
