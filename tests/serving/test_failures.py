"""Workers that die or hang, artifacts that are damaged, and too much to do: requests are answered, or told why not."""

import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from safetensors.numpy import load_file, save_file

from vitquant import artifact, files, recipes, runtime
from vitquant.serving import loadtest

from .running import PATIENCE, Running, serve

HEADERS = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture
def image(images: Path) -> bytes:
    return (images / "disc" / "000.png").read_bytes()


@pytest.fixture
def own(artifacts: Path, tmp_path: Path) -> Path:
    """A folder of artifacts that may be damaged."""
    for name in ("vitquant-int8", "second"):
        shutil.copytree(artifacts / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def chain(own: Path) -> Iterator[Running]:
    """vitquant-int8, then another of its kind."""
    with serve(own, own / "vitquant-int8", own / "second") as running:
        running.warm("vitquant-int8", "second")
        yield running


@pytest.fixture
def alone(own: Path) -> Iterator[Running]:
    """vitquant-int8, with no fallback and little room."""
    with serve(own, own / "vitquant-int8", queue=3, deadline_ms=1000 * PATIENCE, max_images=4) as running:
        running.warm("vitquant-int8")
        yield running


def test_killed_again_and_again_every_request_has_one_answer(chain: Running, image: bytes) -> None:
    done = threading.Event()

    def ask(_: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        with requests.Session() as session:
            while not done.is_set():
                answer = session.post(f"{chain.url}/predict", image, timeout=PATIENCE)
                assert answer.status_code in (200, 503), answer.text
                answers[answer.json().get("recipe", "503")] += 1
        return answers

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask, number) for number in range(3)]
        try:
            for _ in range(5):
                for name in ("vitquant-int8", "second"):
                    line = f'vitquant_images_total{{recipe="{name}"}}'
                    before = chain.metric(line)
                    chain.wait(lambda: chain.metric(line) > before)  # noqa: B023
                    if name == "vitquant-int8":
                        chain.kill(name)
        finally:
            done.set()
        answers = sum((each.result() for each in asking), Counter())
    assert answers["vitquant-int8"] and answers["second"]
    counted = sum(chain.metric(f'vitquant_images_total{{recipe="{name}"}}') for name in answers if name != "503")
    assert counted == answers.total() - answers["503"]
    chain.wait(lambda: chain.post(image).json()["recipe"] == "vitquant-int8")


def test_a_request_whose_worker_dies_is_answered_by_the_next(chain: Running, image: bytes) -> None:
    (worker,) = chain.children("worker", "vitquant-int8")
    worker.suspend()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(chain.post, image)
        chain.wait(lambda: chain.metric('vitquant_batch_images_count{recipe="vitquant-int8"}'))
        worker.kill()
        answer = asked.result()
    assert (answer.status_code, answer.headers["X-Vitquant-Recipe"]) == (200, "second")
    assert "failed (died)" in chain.log


def test_a_damaged_artifact_is_left_and_taken_again_when_mended(chain: Running, own: Path, image: bytes) -> None:
    weights = own / "vitquant-int8" / artifact.WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert chain.post(image).json()["recipe"] == "vitquant-int8"  # it is in memory
    chain.kill("vitquant-int8")
    chain.wait(lambda: "has changed since it was written" in chain.log)
    answer = chain.post(image)
    assert answer.json()["recipe"] == "second"
    assert chain.ready()
    weights.write_bytes(content)
    chain.wait(lambda: chain.post(image).json()["recipe"] == "vitquant-int8")


def test_another_artifact_in_its_place_is_not_taken(alone: Running, own: Path, artifacts: Path, image: bytes) -> None:
    shutil.rmtree(own / "vitquant-int8")
    shutil.copytree(artifacts / "dynamic-int8", own / "vitquant-int8")
    alone.kill("vitquant-int8")
    alone.wait(lambda: "is left for 10 s" in alone.log)
    assert "is another artifact than when the server started" in alone.log
    answer = alone.post(image)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    said = requests.get(f"{alone.url}/v2/health/ready", timeout=PATIENCE)
    assert said.status_code == 503
    assert said.json()["error"] == "nothing can serve: vitquant-int8: its artifact does not load"


def test_an_input_that_ends_two_workers_is_not_tried_again(own: Path) -> None:
    """A thousand images: there is time to end the worker while it has them."""
    request = loadtest.body(list(np.zeros((1000, 64, 64, 3), np.uint8)), "pixels")

    def post() -> requests.Response:
        return running.post(request.content, "/v2/models/vitquant-int8/infer", **request.headers)

    options = {"max_images": 1000, "queue": 1000, "deadline_ms": 1000 * PATIENCE}
    with serve(own, own / "vitquant-int8", **options) as running, ThreadPoolExecutor(1) as threads:
        running.warm("vitquant-int8")
        asked, before = threads.submit(post), 0.0
        while not asked.done():  # a worker that ends between two images has not ended over one of them
            running.wait(lambda: running.metric("vitquant_batch_images_count") > before or asked.done())  # noqa: B023
            running.kill("vitquant-int8", signal.SIGSEGV)
            running.wait(lambda: running.ready() or asked.done())
            before = running.metric("vitquant_batch_images_count")
        assert asked.result().status_code == 422
        running.wait(running.ready)
        assert post().json()["error"].startswith("this input ended two processes")
        assert running.metric("vitquant_images_total") == 0


def test_full_is_said_at_once(alone: Running, image: bytes) -> None:
    (worker,) = alone.children("worker")
    worker.suspend()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(alone.post, image)]
        alone.wait(lambda: alone.metric("vitquant_batch_images_count") == 1)
        asked += [threads.submit(alone.post, image) for _ in range(3)]
        alone.wait(lambda: alone.metric("vitquant_waiting_images") == 3)
        full = alone.post(image)
        assert full.status_code == 503
        assert full.json() == {"error": "too many images wait"}
        assert int(full.headers["Retry-After"]) >= 1
        worker.resume()
        assert [each.result().status_code for each in asked] == [200] * 4


def test_a_worker_that_hangs_ends_at_the_deadline(own: Path, image: bytes) -> None:
    with serve(own, own / "vitquant-int8", deadline_ms=500) as running:
        running.warm("vitquant-int8")
        (worker,) = running.children("worker")
        worker.suspend()
        assert running.post(image).status_code == 504
        worker.wait(PATIENCE)
        assert "failed (deadline)" in running.log
        running.wait(lambda: running.post(image).status_code == 200)


def test_what_nobody_waits_for_never_reaches_the_model(alone: Running, image: bytes) -> None:
    (worker,) = alone.children("worker")
    worker.suspend()
    host, port = alone.address.split(":")
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(alone.post, image)
        alone.wait(lambda: alone.metric("vitquant_batch_images_count") == 1)
        for _ in range(2):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(HEADERS.format(len(image)).encode() + image)
                alone.wait(lambda: alone.metric("vitquant_waiting_images") == 1)
            alone.wait(lambda: alone.metric('vitquant_requests_total{endpoint="predict",status="499"}'))
            alone.wait(lambda: alone.metric("vitquant_waiting_images") == 0)
        worker.resume()
        assert asked.result().status_code == 200
    assert alone.metric("vitquant_batch_images_count") == 1


def test_told_to_end_it_answers_what_it_has(alone: Running, image: bytes) -> None:
    (worker,) = alone.children("worker")
    others = alone.children("decoder")
    worker.suspend()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(alone.post, image)
        alone.wait(lambda: alone.metric("vitquant_batch_images_count") == 1)
        alone.process.send_signal(signal.SIGTERM)
        alone.wait(lambda: "Shutting down" in alone.log)
        with pytest.raises(requests.ConnectionError):
            alone.post(image)
        worker.resume()
        assert asked.result().status_code == 200
    assert alone.process.wait(PATIENCE) == 0
    for child in (worker, *others):
        child.wait(PATIENCE)


def test_children_end_when_the_server_is_killed(alone: Running) -> None:
    children = alone.children("worker") + alone.children("decoder")
    assert len(children) == 3
    alone.process.kill()
    for child in children:
        child.wait(PATIENCE)


def test_a_decoder_that_dies_is_replaced(alone: Running, image: bytes) -> None:
    for child in alone.children("decoder"):
        child.kill()
        child.wait(PATIENCE)
    assert [alone.post(image).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("recipe", ["vitquant-int8", "dynamic-int8"])
def test_neighbours_do_not_change_logits(artifacts: Path, tmp_path: Path, recipe: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    others = np.stack([np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)] * 2)
    predictor = recipes.load(artifacts / recipe)
    if recipe == "dynamic-int8":  # whose activation scales span a batch
        assert not np.array_equal(predictor(np.concatenate([image, others]))[:1], predictor(image))
    import tritonclient.http as triton

    def infer(images: np.ndarray) -> np.ndarray:
        tensor = triton.InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(images)
        with running.client() as client:
            return client.infer(recipe, [tensor]).as_numpy("logits")

    with serve(tmp_path, artifacts / recipe, max_batch=8, max_delay_ms=100) as running:
        running.warm(recipe)
        alone = infer(image)
        np.testing.assert_array_equal(infer(np.concatenate([others, image, others]))[4:5], alone)
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.submit(infer, image), threads.submit(infer, others)
            np.testing.assert_array_equal(first.result(), alone)
            second.result()
        largest = running.metric("vitquant_batch_images_sum") / running.metric("vitquant_batch_images_count")
        assert (largest == 1) == (recipe == "dynamic-int8")


def test_numbers_that_are_not_finite_fail_their_own_image(own: Path, images: Path) -> None:
    """The head's weights are so large that the larger of two images' logits overflow, and the smaller's do not."""
    broken = own / "vitquant-int8"
    files_ = [images / label / f"{number:03}.png" for label in ("disc", "noise", "stripes") for number in range(3)]
    largest = {file: float(np.abs(runtime.load(broken, 1)([file])).max()) for file in files_}
    small, large = (best(largest, key=lambda file: largest[file]) for best in (min, max))
    factor = np.float32(np.finfo(np.float32).max / np.sqrt(largest[small] * largest[large]))
    weights = load_file(broken / artifact.WEIGHTS_FILE)
    save_file({name: t * factor if name.startswith("head.") else t for name, t in weights.items()}, broken / "new")
    (broken / "new").replace(broken / artifact.WEIGHTS_FILE)
    spec = files.read_json(broken / artifact.SPEC_FILE)
    spec["files"][artifact.WEIGHTS_FILE]["sha256"] = files.sha256(broken / artifact.WEIGHTS_FILE)
    files.write_json(broken / artifact.SPEC_FILE, spec)
    contents = [small.read_bytes(), large.read_bytes()]
    with serve(own, broken, max_batch=2, max_delay_ms=1000) as running:
        running.warm("vitquant-int8")
        with ThreadPoolExecutor(2) as threads:
            assert [answer.status_code for answer in threads.map(running.post, contents)] == [200, 500]
        assert running.metric("vitquant_batch_images_sum") == 2
    with serve(own, broken, own / "second") as running:
        running.warm("vitquant-int8", "second")
        assert running.post(contents[0]).json()["recipe"] == "vitquant-int8"
        assert [running.post(contents[1]).json()["recipe"] for _ in range(3)] == ["second"] * 3
        assert "vitquant-int8 is left for 10 s" in running.log
        assert running.post(contents[0]).json()["recipe"] == "second"
        assert running.ready()
