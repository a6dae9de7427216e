"""The page in a browser, Debian's Chromium: it is whole, needs no network, and shows the numbers of the JSON."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import chromium
import handmade
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build

MOST_BYTES = 3_000_000
FILLS = "return [...document.querySelectorAll('svg text')].map(text => getComputedStyle(text).fill)"

pytestmark = chromium.needed


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium.started(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(running: webdriver.Chrome) -> webdriver.Chrome:
    """A tab of its own: nothing is emulated in it; what was logged before is forgotten."""
    before = running.current_window_handle
    running.switch_to.new_window("tab")
    new = running.current_window_handle
    running.switch_to.window(before)
    running.close()
    running.switch_to.window(new)
    for log in ("browser", "performance"):
        running.get_log(log)
    return running


@pytest.fixture(scope="module")
def results(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For reading only."""
    folder = tmp_path_factory.mktemp("results")
    inputs = handmade.stages(prepared, folder / "stages")
    handmade.write_gpu(inputs.cuda, handmade.gpu_study())
    build.report(params, inputs, folder)
    return folder


def test_the_page_is_whole_and_alone(browser: webdriver.Chrome, results: Path) -> None:
    page = results / "report.html"
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser, page.as_uri()) if not url.startswith("data:")] == [page.as_uri()]
    assert page.stat().st_size < MOST_BYTES
    figures = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(figures) == 12
    for figure in figures:
        assert figure.get_attribute("role") == "img"
        assert len(figure.get_attribute("aria-label") or "") > 20
        assert figure.size["width"] > 300
        assert figure.size["height"] > 80
    assert not browser.find_elements(By.CSS_SELECTOR, "img, script, link[rel=stylesheet], iframe")
    for link in browser.find_elements(By.CSS_SELECTOR, "a[href^='#']"):
        anchor = (link.get_attribute("href") or "").partition("#")[2]
        assert browser.find_elements(By.ID, anchor), anchor


def test_the_numbers_on_the_page_are_those_of_the_json(browser: webdriver.Chrome, results: Path) -> None:
    browser.get((results / "report.html").as_uri())
    summary = browser.find_elements(By.TAG_NAME, "table")[0]
    columns = [cell.text for cell in summary.find_elements(By.CSS_SELECTOR, "thead th")]
    rows = {
        cells[0]: dict(zip(columns, cells, strict=True))
        for row in summary.find_elements(By.CSS_SELECTOR, "tbody tr")
        for cells in [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")]]
    }
    metrics = files.read_json(results / "metrics.json")["recipes"]
    assert list(rows) == list(metrics)
    for name, recipe in metrics.items():
        for column, key in {
            "top-1 %": "top1_pct",
            "Δ top-1, pp": "top1_delta_pp",
            "agreement %": "agreement_pct",
            "b1 ms": "latency_b1_ms_p50",
            "× best other float b1": "vs_best_float_b1_x",
            "× best other float b8": "vs_best_float_b8_x",
            "× fp32 b1": "speedup_b1_x",
            "b8 images/s": "throughput_b8_img_s",
            "peak memory, MB": "memory_peak_mb",
            "size, MB": "size_mb",
        }.items():
            shown = rows[name][column]
            if key not in recipe:
                assert shown == "–"
                continue
            numbers = [float(number) for number in re.findall(r"[+-]?[\d.]+", shown)]
            head, _, unit = key.rpartition("_")
            expected = [recipe[key], *recipe.get(f"{head}_ci95_{unit}", [])[: len(numbers) - 1]]
            digits = len(re.findall(r"\.(\d+)", shown)[0]) if "." in shown else 0
            assert numbers == pytest.approx(expected, abs=0.51 * 10**-digits), (name, column)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser: webdriver.Chrome, results: Path, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((results / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_light_and_dark_are_legible(browser: webdriver.Chrome, results: Path) -> None:
    """Text on the page, in figures too, has a contrast of at least 4.5 to 1 (WCAG 2.1)."""
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        browser.get((results / "report.html").as_uri())
        behind = luminance(css(browser, "body", "background-color"))
        assert (behind < 0.5) == (scheme == "dark")
        colors = {css(browser, "body", "color"), css(browser, "figcaption", "color"), css(browser, "nav a", "color")}
        colors |= set(browser.execute_script(FILLS))
        for color in colors - {"rgba(0, 0, 0, 0)"}:
            light, dark = sorted((luminance(color), behind), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, color)


def test_no_script_runs_that_someone_put_into_a_name_or_a_reason(
    browser: webdriver.Chrome, params: Params, prepared: Prepared, tmp_path: Path
) -> None:
    attack = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    inputs = handmade.stages(prepared, tmp_path / "stages")
    handmade.move(inputs, cpu=attack)
    handmade.write_gpu(inputs.cuda, handmade.gpu_study(attack), attack)
    shutil.copytree(prepared.path, tmp_path / "data")
    files.write_json(tmp_path / "data/classes.json", [f"{index} {attack}" for index in range(6)])
    svg = '<svg width="1" height="1" viewBox="0 0 1 1"><script>document.title="run"</script></svg>'
    (tmp_path / "evil.svg").write_text(svg)
    results_of_int8 = inputs.accuracy / "dynamic-int8.json", inputs.predictions / "dynamic-int8.npz"
    accuracy.write_unavailable("dynamic-int8", handmade.INT8, "![an image](../evil.png)", *results_of_int8)
    inputs = dataclasses.replace(inputs, data=tmp_path / "data")
    build.report(params.model_copy(update={"study": attack}), inputs, tmp_path / "out")
    browser.get((tmp_path / "out/report.html").as_uri())
    assert browser.title == f"{attack}: FP32 against INT8"
    assert not browser.find_elements(By.CSS_SELECTOR, "img, script")
    assert attack in browser.find_element(By.TAG_NAME, "h1").text
    assert browser.get_log("browser") == []


def test_the_pages_policy_stops_what_would_get_through(
    browser: webdriver.Chrome, results: Path, tmp_path: Path
) -> None:
    """A script, a handler, an image and a frame, put into the page by hand."""
    attack = (
        "<script>document.title='run'</script><img src='http://127.0.0.1:1/x' onerror=\"document.title='run'\">"
        "<svg onload=\"document.title='run'\"></svg><iframe src='http://127.0.0.1:1/y'></iframe>"
    )
    page = tmp_path / "report.html"
    page.write_text((results / "report.html").read_text().replace("</main>", f"{attack}</main>"))
    browser.get(page.as_uri())
    assert browser.title == "mini: FP32 against INT8"
    assert len(browser.find_elements(By.CSS_SELECTOR, "img, script, iframe")) == 3
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert len([message for message in refused if "Content Security Policy" in message]) >= 4


def requests(browser: webdriver.Chrome, page: str) -> list[str]:
    """What `page` asked for, itself first; the browser's own start page is left out."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [parameters["request"]["url"] for parameters in sent if parameters["documentURL"].startswith(page)]


def css(browser: webdriver.Chrome, selector: str, name: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
