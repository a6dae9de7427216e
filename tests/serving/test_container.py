"""What the server's container is made of, where no engine can build it: its dependencies, and what is drawn of it."""

import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import promql_parser
import pytest
import requests
import yaml

from vitquant import runtime

from .running import PATIENCE, Running, serve

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
GROUP = "serve-int8"
INTERVAL = "$__rate_interval"  # which Grafana puts in


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has vitquant and what uv.lock has for GROUP, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    export = ["uv", "export", "--frozen", "--offline", "--quiet", "--only-group", GROUP, "--no-hashes", "--no-annotate"]
    command = [str(Path(sys.executable).with_name(export[0])), *export[1:], "--no-header"]
    locked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [re.split("[=;]", line)[0].strip() for line in locked]
    for name in (*names, "vitquant"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    (packages / "own.pth").write_text(f"{REPOSITORY / 'src'}\n")
    return folder / "bin/python"


@pytest.fixture(scope="module")
def server(python: Path, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = (str(python), "-c", "from vitquant.cli import main; main()")
    with serve(tmp_path_factory.mktemp("s"), artifacts / "vitquant-int8", artifacts / "fp32", command=command) as run:
        run.warm("vitquant-int8")
        yield run


def test_what_is_locked_for_it_serves(server: Running, artifacts: Path, images: Path) -> None:
    file = images / "disc/000.png"
    answer = server.post(file.read_bytes())
    assert answer.json()["recipe"] == "vitquant-int8"
    classifier = runtime.load(artifacts / "vitquant-int8")
    assert answer.json()["classes"][0]["class"] == classifier.classes[classifier([file]).argmax()]


def test_a_fallback_that_needs_pytorch_is_named(server: Running) -> None:
    server.wait(lambda: "its method, fp32, needs PyTorch, which is not installed" in server.log)
    assert "Traceback" not in server.log


def test_a_comparison_that_needs_pytorch_is_refused(python: Path, artifacts: Path, tmp_path: Path) -> None:
    options = ["--artifact", artifacts / "vitquant-int8", "--port", 0, "--shadow", 1, "--log", tmp_path / "log"]
    command = [python, "-c", "from vitquant.cli import main; main()", "serve", *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: --shadow gives images to fp32, which needs PyTorch")


def test_the_dashboard_draws_what_the_server_has(server: Running, images: Path) -> None:
    server.post((images / "disc/000.png").read_bytes())
    text = requests.get(f"{server.url}/metrics", timeout=PATIENCE).text
    exported = set(re.findall(r"^(\w+)", text, re.MULTILINE))
    labels = set(re.findall(r'[{,](\w+)="', text))
    (file,) = (DOCKER / "grafana/dashboards").iterdir()
    expressions = [target["expr"] for panel in json.loads(file.read_text())["panels"] for target in panel["targets"]]
    assert expressions
    for expression in expressions:
        promql_parser.parse(expression.replace(INTERVAL, "1m"))
        names = re.findall(r"\b(?:vitquant|process)_\w+", expression)
        assert names
        assert exported.issuperset(names), expression
        for grouped in re.findall(r"by \((.*?)\)", expression):
            assert labels.issuperset(grouped.split(", ")), expression


def test_prometheus_and_grafana_find_what_they_name() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    (scrape,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    assert target.partition(":")[0] in compose["services"]
    provisioning = DOCKER / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert re.fullmatch(r"http://(\w+):\d+", source["url"])[1] in compose["services"]
    dashboard = json.loads((DOCKER / "grafana/dashboards/vitquant.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards/vitquant.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["services"]["grafana"]["volumes"])
    assert (DOCKER / mounts[provider["options"]["path"]] / "vitquant.json").is_file()


def test_only_the_loopback_reaches_the_services() -> None:
    for service in yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_image_has_this_group_and_no_compiler() -> None:
    *_, builder, last = (DOCKER / "serve.Dockerfile").read_text().split("\nFROM ")
    assert f"uv sync --frozen --only-group {GROUP} " in builder
    assert "g++" in builder
    assert [line for line in last.splitlines() if line.startswith(("COPY", "RUN", "USER"))] == [
        "COPY --from=builder /opt/venv /opt/venv",
        "USER 10001:10001",
    ]
