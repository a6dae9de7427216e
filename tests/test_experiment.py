import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from vitquant import experiment, params
from vitquant.errors import VitquantError

REPOSITORY = Path(__file__).parents[1]
STUDY = REPOSITORY / "studies/tiny-imagenet.yaml"


def test_the_settings_turn_params_yaml_into_the_study(tmp_path: Path) -> None:
    """Applied by DVC itself, they give exactly the study's sections and leave the others alone."""
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    current = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    sections = yaml.safe_load(STUDY.read_text())
    apply_overrides(tmp_path / "params.yaml", experiment._overrides(current, sections))
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == {**current, **sections}
    loaded = params.load(tmp_path / "params.yaml")
    assert loaded.model.source == "dinov2"
    assert loaded.head == "imagenet1k"


def test_a_host_that_cannot_be_reached_is_named_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    study = yaml.safe_load(STUDY.read_text())
    study["data"]["url"] = "http://127.0.0.1:9/tiny-imagenet-200.zip"  # the discard port: nothing listens
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(
        VitquantError, match=r"cannot reach 127.0.0.1 .*: check the network, or point data.url at"
    ) as error:
        experiment.run(tmp_path / "study.yaml", Path("params.yaml"), (), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_only_what_is_downloaded_must_be_reachable() -> None:
    settings = ['++model.url="https://a.example/w.pth"', '++model.head_url="https://a.example/h.pth"', "head=probe"]
    settings += ['++data.url="http://b.example/d.zip"', "data.url=file:///d.zip"]
    assert experiment._urls(settings) == {"model.url": "https://a.example/w.pth"}
    assert set(experiment._urls([*settings, 'head="imagenet1k"'])) == {"model.url", "model.head_url"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "study.yaml is missing"),
        ("model: [", "study.yaml is not valid YAML"),
        ("- model", "must hold sections of params.yaml"),
        ("colour: red", "study.yaml: colour: unknown key"),
        ("head: tail", "study.yaml: head: Input should be 'probe', 'imagenet1k' or 'none'"),
    ],
)
def test_a_study_that_is_not_one(tmp_path: Path, content: str | None, message: str) -> None:
    if content:
        (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(VitquantError) as error:
        experiment.run(tmp_path / "study.yaml", REPOSITORY / "params.yaml", (), tmp_path / "out")
    assert message in str(error.value)
