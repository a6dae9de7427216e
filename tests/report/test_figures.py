"""The trade-off figure, drawn for real; what it shows is read back from it."""

import itertools

import handmade
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from vitquant.analysis.details import ClassRow, Details, ImageRow
from vitquant.analysis.findings import Estimate, Recipe, Study
from vitquant.measure import profiler
from vitquant.report import figures, figures_detail, style
from vitquant.results.benchmark import Benchmark, Benchmarked
from vitquant.traits import FP32


def study(recipes: dict[str, tuple[float, float]]) -> Study:
    """FP32 and recipes with these speed-ups and differences in top-1, whose intervals are wide."""
    made = handmade.study()
    made = made.model_copy(update={"recipes": {"fp32": made.baseline}})
    for name, (speedup, delta) in recipes.items():
        own = handmade.recipe(handmade.INT8, speedup, delta, size_mb=20.0, peak_mb=80.0)
        made = handmade.with_recipe(made, name, own)
        made = handmade.with_delta(made, name, delta, delta - 1, delta + 0.5)
        made = handmade.with_speedup(made, name, speedup, 0.8 * speedup, 1.25 * speedup)
    return made


def labels(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_no_name_covers_another_or_leaves_the_figure(spread: float) -> None:
    """Fourteen recipes, from all on one point to far apart."""
    names = [f"onnxruntime-int8-static-{index:02}" for index in range(14)]
    with mpl.rc_context(style.STYLE):
        figure = figures._tradeoff(study({name: (2 + spread * n / 9, -spread * n) for n, name in enumerate(names)}))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    assert sorted(text.get_text() for text in labels(figure)) == ["fp32", *names]
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in labels(figure)]  # without the line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    width, height = canvas.get_width_height()
    assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_latency_is_fp32s_over_the_paired_ratio_at_the_middle_batch_size() -> None:
    points = figures._points(study({"r": (4.0, -0.5)}), 8)
    assert points["fp32"] == (640.0, (640.0, 640.0), 0.0, (0.0, 0.0))
    assert points["r"] == (160.0, (200.0, 128.0), -0.5, (-1.5, 0.0))
    assert figures._tradeoff(study({})).axes[0].get_xlabel() == "latency, milliseconds per batch of 8"


def test_recipes_without_accuracy_or_speed_are_left_out() -> None:
    content = study({"whole": (2.0, -0.1), "slow": (1.5, 0.0), "inaccurate": (3.0, 0.0)})
    for name, update in (("slow", {"speeds": {}}), ("inaccurate", {"accuracy": None})):
        content = handmade.with_recipe(content, name, content.recipes[name].model_copy(update=update))
    absent = Recipe(traits=handmade.INT8, unavailable={"accuracy": "no", "benchmark": "no"})
    content = handmade.with_recipe(content, "absent", absent)
    assert {text.get_text() for text in labels(figures._tradeoff(content))} == {"fp32", "whole"}


def test_a_recipe_is_blue_where_none_is_better_at_both() -> None:
    figure = figures._tradeoff(study({"fast": (3.0, -1.0), "worse": (2.0, -1.5), "twin": (3.0, -1.0)}))
    blue = {text.get_text() for text in labels(figure) if text.get_color() == style.BLUE}
    assert blue == {"fp32", "fast", "twin"}


def test_the_waterfall_steps_from_fp32_to_the_last_recipe_that_was_measured() -> None:
    content = study({"dynamic-int8-per-channel": (2.0, -1.0), "other": (9.0, 0.0), "vitquant-int8": (4.0, -0.1)})
    axes = figures_detail.waterfall(content).axes[0]
    fp32 = content.baseline.at(8).p50_ms / 8
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bars == [(0.0, fp32), (fp32, pytest.approx(fp32 / 2)), (pytest.approx(fp32 / 2), pytest.approx(fp32 / 4))]
    assert [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()] == [
        "fp32",
        "dynamic-int8-per-channel",
        "vitquant-int8",
    ]


def test_no_text_is_cut() -> None:
    """Fifteen recipes, and classes with long names: many, and so few that their figure is low."""
    content = handmade.study()
    for name, speedup, delta in (
        ("fp32-compiled", 1.3, 0.0),
        ("dynamic-int8-per-channel", 2.4, -0.8),
        ("dynamic-int8-smooth", 2.1, -0.2),
        ("torchao-int8-dynamic", 2.5, -0.8),
        ("int8-weight-only", 1.6, -0.6),
        ("int4-weight-only", 1.3, -0.5),
        ("onnxruntime-fp32", 1.3, 0.0),
        ("onnxruntime-int8-dynamic", 2.8, -0.5),
        ("openvino-fp32", 1.3, 0.0),
    ):
        made = handmade.recipe(FP32, speedup, delta, size_mb=86.6, peak_mb=290.0)
        content = handmade.with_recipe(content, name, made)
    profile = {name: dict.fromkeys(profiler.KINDS, 10.0) for name in ("fp32", "int8")}
    content = content.model_copy(update={"profile": profile, "profile_batch": 8})
    images = np.zeros((1, 64, 64, 3), np.uint8)
    with mpl.rc_context(style.STYLE):
        for name, _, figure in (
            *figures.drawings(content, benchmark(content), details(200), images, ["vitquant-int8"]),
            ("two classes", "", figures_detail.per_class(details(2))),
        ):
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            width, height = canvas.get_width_height()
            for text in figure.findobj(Text):
                if text.get_visible() and text.get_text().strip() and text.axes is not None:
                    box = Text.get_window_extent(text, canvas.get_renderer())
                    inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
                    assert inside, (name, text.get_text())


def test_a_recipe_that_was_too_slow_for_every_round_has_no_place_among_the_passes() -> None:
    """Its few passes would make a box beside boxes of many."""
    content = benchmark(study({"quick": (2.0, 0.0), "crawling": (0.01, 0.0)}))
    slow = content.recipes["crawling"].measured
    assert slow
    slow.slow = "timed in the first rounds only"
    names = [label.get_text() for label in figures._latency(content).axes[0].get_yticklabels()]
    assert names == ["fp32", "quick"]


def benchmark(found: Study) -> Benchmark:
    """Passes around each recipe's median, one of them an outlier."""
    spread = np.array([0.9, 0.95, 1.0, 1.05, 1.1, 2.0])
    content = handmade.benchmark()
    any_measured = content.recipes["fp32"].measured
    assert any_measured
    recipes = {}
    for name, recipe in found.recipes.items():
        passes = {size: [(speed.p50_ms * spread).tolist()] for size, speed in recipe.speeds.items()}
        recipes[name] = Benchmarked(
            traits=recipe.traits,
            measured=any_measured.model_copy(
                update={"latency_ms": passes, "from_file_ms": [], "memory_bytes": any_measured.memory_bytes[:1]}
            ),
        )
    return content.model_copy(update={"recipes": recipes, "conditions": content.conditions[:1]})


def details(classes: int) -> Details:
    """What details.json is for this many classes; images moved from one class to another."""
    names = [f"a class with a long name, {index}" for index in range(classes)]
    rows = [
        ClassRow(
            name=name,
            images=10,
            fp32_top1_pct=90.0,
            top1_pct=60.0,
            top1_delta=Estimate(value=-30.0, low=-60.0, high=0.0 - (index % 2), unit="pp"),
        )
        for index, name in enumerate(names)
    ]
    moved = ImageRow(
        row=0, image="a.png", true_class=names[0], fp32=names[0], fp32_probability=0.5, recipe=names[1],
        recipe_probability=0.5, distance=0.5,
    )  # fmt: skip
    return Details(
        per_class={"vitquant-int8": rows, "dynamic-int8-per-channel": rows},
        disagreement={"vitquant-int8": [moved] * 12},
    )
