"""Files from someone else, damaged in any way: what cannot be read ends in one line, never in a traceback.

`FUZZ_EXAMPLES=100000 pytest tests/test_fuzz.py` looks longer than the hundreds of examples of a test run.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import handmade
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitquant import artifact, experiment, files, params, recipes, yaml_files
from vitquant.cli import main
from vitquant.errors import VitquantError, printable
from vitquant.images import Preprocessing
from vitquant.results import form

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_subnormal=False),
    st.text(max_size=20),
    st.sampled_from(["", "../x", "${x}"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    try:
        yield
    except VitquantError as error:
        assert printable(error).strip()  # as the command line shows it


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, taken out or put in, or the end cut off; mostly near the beginning, where headers are."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        where = min(draw(st.integers(0, 300) | st.integers(0, len(content))), len(result))
        kind = draw(st.sampled_from(["change", "insert", "delete", "cut"]))
        if kind == "cut":
            del result[where:]
        elif kind == "delete":
            del result[where : where + draw(st.integers(1, 20))]
        else:
            new = draw(st.binary(min_size=1, max_size=8))
            result[where : where + (len(new) if kind == "change" else 0)] = new
    return bytes(result)


@st.composite
def altered(draw: st.DrawFn, content: Any) -> Any:
    """Parsed JSON or YAML with a value anywhere in it replaced, left out or added."""
    if isinstance(content, dict) and content and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(content)))
        if not draw(st.integers(0, 8)):
            return {name: value for name, value in content.items() if name != key}
        if not draw(st.integers(0, 8)):
            return content | {draw(st.text(max_size=10)): draw(values)}
        return content | {key: draw(altered(content[key]))}
    if isinstance(content, list) and content and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(content) - 1))
        return [*content[:place], draw(altered(content[place])), *content[place + 1 :]]
    return draw(values)


@pytest.fixture(scope="module")
def copy(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "artifact"
    shutil.copytree(fp32, path)
    return path


@fuzz
@given(data=st.data())
def test_recipe_json(data: st.DataObject, fp32: Path, copy: Path) -> None:
    spec = files.read_json(fp32 / artifact.SPEC_FILE)
    (copy / artifact.SPEC_FILE).write_text(json.dumps(data.draw(altered(spec))))
    with one_line():
        recipes.load(copy)


@fuzz
@given(data=st.data())
def test_text_of_recipe_json(data: st.DataObject, fp32: Path, copy: Path) -> None:
    (copy / artifact.SPEC_FILE).write_bytes(data.draw(damaged((fp32 / artifact.SPEC_FILE).read_bytes())))
    with one_line():
        recipes.load(copy)


@fuzz
@given(data=st.data())
def test_weights_whose_digest_is_right(data: st.DataObject, fp32: Path, copy: Path) -> None:
    weights = copy / artifact.WEIGHTS_FILE
    weights.write_bytes(data.draw(damaged((fp32 / artifact.WEIGHTS_FILE).read_bytes())))
    spec = files.read_json(fp32 / artifact.SPEC_FILE)
    spec["files"] = {weights.name: {"sha256": files.sha256(weights), "bytes": weights.stat().st_size}}
    files.write_json(copy / artifact.SPEC_FILE, spec)
    with one_line():
        recipes.load(copy)


@fuzz
@given(data=st.data())
def test_results(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "findings.json"
    file.write_text(json.dumps(data.draw(altered(form.dump(handmade.findings())))))
    for command in (["summary"], ["recommend", "--max-drop", "0.3"], ["diff"]):
        result = CliRunner().invoke(main, [*command, "--findings", str(file)])
        assert result.exit_code in (0, 1), result.exception
        assert isinstance(result.exception, SystemExit | None), result.exception


@fuzz
@given(data=st.data())
def test_studies(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    study = tmp_path_factory.getbasetemp() / "study.yaml"
    content = yaml_files.read(REPOSITORY / "params.yaml")
    with one_line():
        with contextlib.suppress(ValueError):  # of the dumper, for text that YAML cannot hold
            yaml_files.write(study, data.draw(altered(content)))
        params.validate(experiment.merge(study, REPOSITORY / "params.yaml", ()), study)


@fuzz
@given(data=st.data())
def test_text_of_studies(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    study = tmp_path_factory.getbasetemp() / "study.yaml"
    study.write_bytes(data.draw(damaged((REPOSITORY / "studies/tiny-imagenet.yaml").read_bytes())))
    with one_line():
        params.validate(experiment.merge(study, REPOSITORY / "params.yaml", ()), study)


def photograph(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(stream, kind)
    return stream.getvalue()


@fuzz
@given(data=st.data())
def test_images(data: st.DataObject) -> None:
    preprocessing = Preprocessing(resize=32, crop=32, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
    content = data.draw(st.sampled_from(FORMATS).flatmap(lambda kind: damaged(photograph(kind))))
    with one_line():
        assert preprocessing.pixels(content).shape == (32, 32, 3)
