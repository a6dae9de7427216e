from pathlib import Path

import pytest
from conftest import draw_image

from vitquant import params
from vitquant.data import elpv
from vitquant.errors import VitquantError

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml").data


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three images in ELPV's layout."""
    folder = tmp_path / elpv.FOLDER
    (folder / "images").mkdir(parents=True)
    for n in range(3):
        draw_image("disc", n).convert("L").save(folder / f"images/cell{n}.png")
    (folder / "labels.csv").write_text(
        "images/cell0.png  1.0                 mono\n"
        "images/cell1.png  0.3333333333333333  poly\n"
        "images/cell2.png  0.0                 mono\n"
    )
    return tmp_path


def test_the_class_is_cell_type_and_defect_level(raw: Path) -> None:
    found = elpv.samples(PARAMS, raw)
    assert [sample.label for sample in found] == ["mono-100", "poly-33", "mono-0"]
    assert [sample.name.rpartition("/")[2] for sample in found] == ["cell0.png", "cell1.png", "cell2.png"]


def test_an_absent_image_is_named(raw: Path) -> None:
    (raw / elpv.FOLDER / "images/cell1.png").unlink()
    with pytest.raises(VitquantError, match=r"names .*cell1.png, which is absent"):
        elpv.samples(PARAMS, raw)


@pytest.mark.parametrize("content", [None, "images/cell0.png\n", "images/cell0.png half mono\n"])
def test_labels_that_cannot_be_read(raw: Path, content: str | None) -> None:
    labels = raw / elpv.FOLDER / "labels.csv"
    labels.unlink()
    if content:
        labels.write_text(content)
    with pytest.raises(VitquantError, match=r"labels.csv cannot be read"):
        elpv.samples(PARAMS, raw)
