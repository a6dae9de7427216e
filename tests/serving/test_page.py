"""The page in a browser, Debian's Chromium: an image in, classes out, and nothing from anywhere else."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from .running import PATIENCE, Running

DROP = """
const [target, name, type, bytes] = arguments
const transfer = new DataTransfer()
transfer.items.add(new File([new Uint8Array(bytes)], name, {type}))
target.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}))
"""

pytestmark = chromium.needed


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium.started(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def text(browser: webdriver.Chrome, element: str) -> str:
    """An element's text, once it has some."""
    return WebDriverWait(browser, PATIENCE).until(lambda driver: driver.find_element(By.ID, element).text)


def test_an_image_is_chosen_or_dropped(browser: webdriver.Chrome, server: Running, images: Path) -> None:
    file = images / "disc" / "000.png"
    expected = server.post(file.read_bytes()).json()["classes"]
    lines = "\n".join(f"{each['class']} {100 * each['probability']:.1f} %" for each in expected)
    browser.get(server.url)
    browser.find_element(By.ID, "file").send_keys(str(file))
    assert text(browser, "about").startswith("vitquant-int8, ")
    assert text(browser, "classes") == lines
    browser.get(server.url)
    target = browser.find_element(By.ID, "drop")
    browser.execute_script(DROP, target, file.name, "image/png", list(file.read_bytes()))
    assert text(browser, "classes") == lines
    assert browser.find_element(By.ID, "shown").get_property("naturalWidth") == 96
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_what_is_no_image_is_said_so(browser: webdriver.Chrome, server: Running, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    browser.get(server.url)
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "note.png"))
    assert text(browser, "error") == "it is no JPEG, PNG or WebP image"
