"""The trade-off figure, drawn for real; what it shows is read back from it."""

import itertools

import handmade
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from vitquant.measure import profiler
from vitquant.report import figures, figures_detail, style
from vitquant.traits import FP32


def metrics(recipes: dict[str, tuple[float, float]]) -> dict:
    """Metrics of FP32 and of recipes with these speed-ups and differences in top-1."""
    sizes = (1, 8, 32)
    content: dict = {"fp32": {f"latency_b{size}_ms_p50": 80.0 * size for size in sizes}}
    for name, (speedup, delta) in recipes.items():
        content[name] = {"top1_delta_pp": delta, "top1_delta_ci95_pp": [delta - 1, delta + 0.5]}
        for size in sizes:
            content[name] |= {
                f"latency_b{size}_ms_p50": 1.0,
                f"speedup_b{size}_x": speedup,
                f"speedup_b{size}_ci95_x": [0.8 * speedup, 1.25 * speedup],
            }
    return {"study": {"eval_images": 1050}, "recipes": content}


def labels(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_no_name_covers_another_or_leaves_the_figure(spread: float) -> None:
    """Fourteen recipes, from all on one point to far apart."""
    names = [f"onnxruntime-int8-static-{index:02}" for index in range(14)]
    with mpl.rc_context(style.STYLE):
        figure = figures._tradeoff(metrics({name: (2 + spread * n / 9, -spread * n) for n, name in enumerate(names)}))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    assert sorted(text.get_text() for text in labels(figure)) == ["fp32", *names]
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in labels(figure)]  # without the line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    width, height = canvas.get_width_height()
    assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_latency_is_fp32s_over_the_paired_ratio_at_the_middle_batch_size() -> None:
    points = figures._points(metrics({"r": (4.0, -0.5)}), 8)
    assert points["fp32"] == (640.0, [640.0, 640.0], 0.0, [0.0, 0.0])
    assert points["r"] == (160.0, [200.0, 128.0], -0.5, [-1.5, 0.0])
    assert figures._tradeoff(metrics({})).axes[0].get_xlabel() == "latency, milliseconds per batch of 8"


def test_recipes_without_accuracy_or_speed_are_left_out() -> None:
    content = metrics({"whole": (2.0, -0.1), "slow": (1.5, 0.0), "inaccurate": (3.0, 0.0)})
    for size in (1, 8, 32):
        del content["recipes"]["slow"][f"speedup_b{size}_x"]
    del content["recipes"]["inaccurate"]["top1_delta_pp"]
    content["recipes"]["absent"] = {"unavailable": {"accuracy": "no", "benchmark": "no"}}
    assert {text.get_text() for text in labels(figures._tradeoff(content))} == {"fp32", "whole"}


def test_a_recipe_is_blue_where_none_is_better_at_both() -> None:
    figure = figures._tradeoff(metrics({"fast": (3.0, -1.0), "worse": (2.0, -1.5), "twin": (3.0, -1.0)}))
    blue = {text.get_text() for text in labels(figure) if text.get_color() == style.BLUE}
    assert blue == {"fp32", "fast", "twin"}


def test_the_waterfall_steps_from_fp32_to_the_last_recipe_that_was_measured() -> None:
    content = metrics({"dynamic-int8-per-channel": (2.0, -1.0), "other": (9.0, 0.0), "vitquant-int8": (4.0, -0.1)})
    axes = figures._waterfall(content).axes[0]
    fp32 = content["recipes"]["fp32"]["latency_b8_ms_p50"] / 8
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bars == [(0.0, fp32), (fp32, pytest.approx(fp32 / 2)), (pytest.approx(fp32 / 2), pytest.approx(fp32 / 4))]
    assert [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()] == [
        "fp32",
        "dynamic-int8-per-channel",
        "vitquant-int8",
    ]


def test_no_text_is_cut() -> None:
    """Fifteen recipes, and classes with long names: many, and so few that their figure is low."""
    content = handmade.metrics()
    content["recipes"] |= {
        name: handmade.recipe(FP32, speedup, delta, size_mb=86.6, peak_mb=290.0)
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
        )
    }
    spread = np.array([0.9, 0.95, 1.0, 1.05, 1.1, 2.0])
    passes = {
        name: {"latency_ms": {str(size): found[f"latency_b{size}_ms_p50"] * spread for size in handmade.SIZES}}
        for name, found in content["recipes"].items()
    }
    profile = {"batch": 8, "recipes": {name: dict.fromkeys(profiler.KINDS, 10.0) for name in ("fp32", "int8")}}
    images = np.zeros((1, 64, 64, 3), np.uint8)
    with mpl.rc_context(style.STYLE):
        for name, _, figure in (
            *figures.drawings(content, {"recipes": passes}, details(200), profile, images, ["vitquant-int8"]),
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


def details(classes: int) -> dict:
    """What details.json is for this many classes; images moved from one class to another."""
    names = [f"a class with a long name, {index}" for index in range(classes)]
    rows = [
        {"class": name, "images": 10, "top1_delta_pp": -30.0, "top1_delta_ci95_pp": [-60.0, 0.0 - (index % 2)]}
        for index, name in enumerate(names)
    ]
    moved = {"row": 0, "class": names[0], "fp32": names[0], "fp32_probability": 0.5, "recipe": names[1]}
    return {
        "per_class": {"vitquant-int8": rows, "dynamic-int8-per-channel": rows},
        "disagreement": {"vitquant-int8": [moved | {"recipe_probability": 0.5}] * 12},
    }
