import shutil
from pathlib import Path

import pytest
import yaml

from vitquant import experiment, params, yaml_files
from vitquant.errors import VitquantError

REPOSITORY = Path(__file__).parents[1]
STUDY = REPOSITORY / "studies/tiny-imagenet.yaml"


def test_a_study_replaces_whole_sections() -> None:
    current = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    sections = yaml.safe_load(STUDY.read_text())
    merged = experiment.merge(STUDY, REPOSITORY / "params.yaml", ())
    assert merged == {**current, **sections}
    assert params.validate(merged, STUDY).head == "imagenet1k"


def test_any_section_and_value_comes_through(tmp_path: Path) -> None:
    odd = {"method": "m", "ü 🙂": ["\t", "\\", "yes", "1e-5", "a: b # c", "{x}", "'\"", "", None, True, 1e-05, 2**40]}
    sections = {"recipes": {"fp32": odd}, "cuda": {}, "benchmark": [1]}
    yaml_files.write(tmp_path / "study.yaml", sections)
    merged = experiment.merge(tmp_path / "study.yaml", REPOSITORY / "params.yaml", ("recipes.fp32.method=[1e-5, ü]",))
    assert merged["recipes"] == {"fp32": odd | {"method": [1e-5, "ü"]}}
    assert merged["cuda"] == {}
    yaml_files.write(tmp_path / "merged.yaml", merged)
    assert yaml_files.read(tmp_path / "merged.yaml") == merged
    assert list(yaml_files.read(tmp_path / "merged.yaml")) == list(merged)


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.yaml"
    study.write_text("data: {source: folder, path: mine}\nmodel: {source: file, path: a.pth}\n")
    merged = experiment.merge(study, REPOSITORY / "params.yaml", ("model.path=../b.pth",))
    assert merged["data"]["path"] == str(tmp_path / "mine")
    assert Path(merged["model"]["path"]) == tmp_path / "../b.pth"


@pytest.mark.parametrize("change", ["head", "=probe", "data.=1", "nothing.key=1", "study.key=1"])
def test_a_change_that_is_none(change: str) -> None:
    with pytest.raises(VitquantError, match=r"--set .*: give a key of params.yaml and its value"):
        experiment.merge(STUDY, REPOSITORY / "params.yaml", (change,))


@pytest.mark.parametrize("change", ["nothing.url=https://me:secret@host/a", "data.url=[https://me:secret@host/a"])
def test_a_change_does_not_show_its_password(change: str) -> None:
    with pytest.raises(VitquantError, match=r"--set .*//host/a") as error:
        experiment.merge(STUDY, REPOSITORY / "params.yaml", (change,))
    assert "secret" not in str(error.value)


def test_a_host_that_cannot_be_reached_is_named_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    study = yaml.safe_load(STUDY.read_text())
    study["model"] |= {"url": "file:///w.pth", "head_url": "file:///h.pth"}
    study["data"]["url"] = "http://127.0.0.1:9/tiny-imagenet-200.zip"  # the discard port: nothing listens
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(
        VitquantError, match=r"cannot reach 127.0.0.1 .*: check the network, or point data.url at"
    ) as error:
        experiment.run(tmp_path / "study.yaml", Path("params.yaml"), (), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_only_what_is_downloaded_must_be_reachable() -> None:
    def urls(*changes: str) -> dict[str, str]:
        return experiment._urls(params.validate(experiment.merge(STUDY, REPOSITORY / "params.yaml", changes), STUDY))

    assert urls("model.url=https://a.example/w", "data.url=file:///d.zip", "head=probe") == {
        "model.url": "https://a.example/w"
    }
    assert urls().keys() == {"model.url", "model.head_url", "data.url"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "study.yaml is missing"),
        ("model: [", "study.yaml is not valid YAML"),
        ("- model", "must hold sections of params.yaml"),
        ("colour: red", "study.yaml: colour: unknown key"),
        ("study: '${oc.env:HOME}'", "study.yaml: study: '${' would be replaced by DVC"),
        ("head: tail", "study.yaml: head: Input should be 'probe', 'own', 'features', 'imagenet1k' or 'none'"),
    ],
)
def test_a_study_that_is_not_one(tmp_path: Path, content: str | None, message: str) -> None:
    if content:
        (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(VitquantError) as error:
        experiment.run(tmp_path / "study.yaml", REPOSITORY / "params.yaml", (), tmp_path / "out")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["sp ace", "a..b", "HEAD", "n" * 250, "-x"])
def test_a_name_that_no_experiment_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(VitquantError, match="becomes the experiment's name: rename the file, with letters, digits"):
        experiment.run(tmp_path / f"{name}.yaml", REPOSITORY / "params.yaml", (), tmp_path / "out")


def test_published_findings_take_the_place_of_those_before(tmp_path: Path) -> None:
    results, destination = tmp_path / "experiments/mine/results", tmp_path / "results/studies/mine"
    results.mkdir(parents=True)
    for text in ("first", "second"):
        (results / "findings.json").write_text(text)
        experiment.publish(results, destination)
        assert [(file.name, file.read_text()) for file in destination.iterdir()] == [("findings.json", text)]
