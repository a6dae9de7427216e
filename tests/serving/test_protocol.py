"""The Open Inference Protocol, by a client that nobody here wrote; and an image by HTTP alone."""

import base64
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from vitquant import runtime
from vitquant.serving.model import probabilities

from .running import PATIENCE, Running

NAME = "vitquant-int8"


@pytest.fixture(scope="session")
def classifier(artifacts: Path) -> runtime.Classifier:
    return runtime.load(artifacts / NAME)


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def files(images: Path) -> list[Path]:
    return [images / label / "000.png" for label in ("disc", "waves")]


def infer(
    server: Running, images: NDArray, *, binary: bool = True, binary_output: bool = True, **options: str
) -> triton.InferResult:
    kind = "UINT8" if images.dtype == np.uint8 else "BYTES"
    tensor = triton.InferInput("images", list(images.shape), kind).set_data_from_numpy(images, binary_data=binary)
    names = ("logits", "probabilities", "class_names")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in names]
    return server.client().infer(NAME, [tensor], outputs=outputs, **options)


def test_health_and_metadata(server: Running, classifier: runtime.Classifier) -> None:
    client = server.client()
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(NAME)
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 64, 64, 3]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "probabilities", "class_names"]
    assert metadata["parameters"]["classes"] == classifier.classes
    for name, version in (("another", ""), (NAME, "2")):
        with pytest.raises(InferenceServerException, match="there is no such model"):
            client.get_model_metadata(name, version)


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_pixels(server: Running, classifier: runtime.Classifier, pixels, binary: bool, binary_output: bool) -> None:
    answer = infer(server, pixels, binary=binary, binary_output=binary_output, request_id="number 1")
    expected = classifier(pixels)
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), probabilities(expected), rtol=1e-6)
    names = [name.decode() if isinstance(name, bytes) else name for name in answer.as_numpy("class_names")]
    assert names == [classifier.classes[index] for index in expected.argmax(axis=1)]
    said = answer.get_response()
    assert (said["id"], said["parameters"]["recipe"], said["model_name"]) == ("number 1", NAME, NAME)


def test_image_files(server: Running, classifier: runtime.Classifier, files: list[Path]) -> None:
    contents = [file.read_bytes() for file in files]
    binary = infer(server, np.array(contents, object))
    encoded = infer(server, np.array([base64.b64encode(content) for content in contents], object), binary=False)
    for answer in (binary, encoded):
        np.testing.assert_array_equal(answer.as_numpy("logits"), classifier(files))


def test_all_outputs_without_asking(server: Running, pixels) -> None:
    tensor = triton.InferInput("images", list(pixels.shape), "UINT8").set_data_from_numpy(pixels)
    answer = server.client().infer(NAME, [tensor])
    assert answer.as_numpy("logits").shape == (3, 6)
    assert answer.as_numpy("class_names").shape == (3,)


def test_a_file_in_a_form_and_by_itself(server: Running, classifier: runtime.Classifier, files: list[Path]) -> None:
    expected = probabilities(classifier(files[:1]))[0]
    url = f"{server.url}/predict"
    with files[0].open("rb") as stream:
        form = requests.post(url, files={"file": ('a "name".png', stream)}, data={"note": "x"}, timeout=PATIENCE)
    itself = server.post(files[0].read_bytes())
    for answer in (form, itself):
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["recipe"] == answer.headers["X-Vitquant-Recipe"] == NAME
        best = np.argsort(-expected)[:5]
        assert [each["class"] for each in said["classes"]] == [classifier.classes[index] for index in best]
        np.testing.assert_allclose([each["probability"] for each in said["classes"]], expected[best], atol=1e-5)
        assert answer.text.count("\n") == 1


def test_metrics_and_the_description(server: Running, pixels) -> None:
    before = server.metric(f'vitquant_images_total{{recipe="{NAME}"}}')
    infer(server, pixels)
    assert server.metric(f'vitquant_images_total{{recipe="{NAME}"}}') == before + 3
    assert server.metric('vitquant_requests_total{endpoint="infer",status="200"}') >= 1
    described = requests.get(f"{server.url}/openapi.json", timeout=PATIENCE).json()
    assert {"/predict", "/v2", "/v2/models/{name}/infer"} <= described["paths"].keys()
    assert requests.get(f"{server.url}/docs", timeout=PATIENCE).status_code == 200


def test_nothing_says_that_other_sites_may_ask(server: Running) -> None:
    answer = requests.get(server.url, headers={"Origin": "http://example.org"}, timeout=PATIENCE)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
