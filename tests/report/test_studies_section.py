"""Studies that ship beside the committed one, in its report."""

from pathlib import Path

import handmade
import pytest

from vitquant.analysis import studies
from vitquant.analysis.findings import Findings
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import Params
from vitquant.report import build, studies_section
from vitquant.results import form

SPEED = handmade.SEEDS.model_copy(update={"name": "vit-b-speed"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ViT-B's, measured on another machine, and one of the committed study's own name."""
    environment = handmade.ENVIRONMENT.model_copy(update={"host": "cellar"})
    for facts in (SPEED, handmade.FACTS):
        study = handmade.study().model_copy(update={"facts": facts, "environment": environment})
        form.write(tmp_path / facts.name / "findings.json", Findings(study=study))
    return tmp_path


def test_each_but_the_own_with_its_machine_and_its_table(folder: Path) -> None:
    found = studies.read(folder, handmade.FACTS.name)
    assert list(found) == ["vit-b-speed"]
    text = studies_section.section(found, handmade.study())
    assert "### vit-b-speed" in text
    assert "on another machine than this report's (host), Abacus, PyTorch 2.14.0, commit 000000000000." in text
    assert "| vitquant-int8 " in text
    assert "on this report's machine" in studies_section.section(found, found["vit-b-speed"])


def test_the_report_shows_them_and_judges_by_the_vit_b(
    params: Params, prepared: Prepared, folder: Path, tmp_path: Path
) -> None:
    inputs = handmade.stages(prepared, tmp_path / "stages")
    alone = build.markdown(params, build.read(params, inputs), [])
    beside = build.markdown(params, build.read(params, inputs, build.Beside(studies=folder)), [])
    assert studies_section.NONE in alone
    assert "### vit-b-speed" not in alone
    assert "### vit-b-speed" in beside
    row = next(line for line in beside.splitlines() if line.startswith("| hidden width"))
    assert "768 (`vit-b-speed`)" in row
    assert "**reproduced**" in row
    assert "| PyTorch " in beside
    assert "| Intel Xeon, 8 cores " in beside


def test_one_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "vit-b-speed/findings.json").write_text("{}")
    with pytest.raises(VitquantError, match=r"vit-b-speed/findings.json has version 1 of the format"):
        studies.read(folder, "sample")
