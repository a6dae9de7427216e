"""The Makefile, in a copy around programs that only tell how they were called: what people set is data to the shell."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TELL = '#!/bin/sh\nfor argument; do printf "%s\\n" "$argument"; done >>"{calls}"\necho end >>"{calls}"\n'
INJECTIONS = [
    "; touch x",
    "$(touch x)",
    "`touch x`",
    "' ; touch x; '",
    '"; touch x; "',
    "$(shell touch x)",
    "| touch x",
]
DRIVER = "#!/bin/sh\necho 580.1\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The Makefile, what it calls, and an environment that is ready."""
    root = tmp_path / 'a "$(touch x)" copy'
    for folder in (".venv/bin", ".git", "../bin"):
        (root / folder).mkdir(parents=True)
    shutil.copy(REPOSITORY / "Makefile", root)
    shutil.copytree(REPOSITORY / "docker", root / "docker")
    for name in ("pyproject.toml", "uv.lock", ".venv/.ready"):  # in this order
        (root / name).touch()
    for name in (".venv/bin/vitquant", "../bin/docker"):
        program(root / name, TELL.format(calls=str(tmp_path / "calls")))
    program(tmp_path / "bin/nvidia-smi", DRIVER)
    program(tmp_path / "bin/nvidia-ctk", DRIVER)
    return root


def program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def make(copy: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Run make; how each program was called."""
    changes = {"PATH": f"{copy.parent / 'bin'}{os.pathsep}{os.environ['PATH']}", **environment}
    process = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=copy, env=os.environ | changes, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert not [path for path in copy.rglob("x") if path.is_file()]
    calls = (copy.parent / "calls").read_text().split("end\n")
    return [call.splitlines() for call in calls if call]


def test_a_revision(copy: Path) -> None:
    assert make(copy, "diff", "REV=HEAD~1") == [["diff", "--", "HEAD~1"]]


def test_no_revision(copy: Path) -> None:
    assert make(copy, "diff") == [["diff"]]


@pytest.mark.parametrize("injection", [*INJECTIONS, "--output=x"])
def test_a_revision_runs_nothing(copy: Path, injection: str) -> None:
    assert make(copy, "diff", f"REV={injection}") == [["diff", "--", injection]]
    assert make(copy, "diff", REV=injection)[1] == ["diff", "--", injection]


def test_changes_of_a_study(copy: Path) -> None:
    study = ["experiment", "studies/tiny-imagenet.yaml"]
    changes = make(copy, "repro-full", "SET=data.url=file:///a.zip  probe.c=[1,2] model.name=*")
    assert changes == [[*study, "--set", "data.url=file:///a.zip", "--set", "probe.c=[1,2]", "--set", "model.name=*"]]
    assert make(copy, "repro-full")[1] == study


@pytest.mark.parametrize("injection", INJECTIONS)
def test_changes_of_a_study_run_nothing(copy: Path, injection: str) -> None:
    words = [part for word in injection.split() for part in ("--set", word)]
    assert make(copy, "repro-full", f"SET={injection}") == [["experiment", "studies/tiny-imagenet.yaml", *words]]


def test_a_container_has_no_rights_and_reads_history(copy: Path) -> None:
    *_, called = make(copy, "docker-bench")
    assert called[:2] == ["run", "--rm"]
    assert called[called.index("--cap-drop") + 1] == "ALL"
    assert "no-new-privileges" in called
    assert called[called.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert [called[index + 1] for index, word in enumerate(called) if word == "--volume"] == [
        f"{copy}:/vitquant",
        f"{copy}/.git:/vitquant/.git:ro",
    ]
    assert called[-5:] == ["vitquant", "docker/bench.sh", "dvc", "repro", "benchmark_cuda"]
    *_, called = make(copy, "docker-test")
    assert called[called.index("--cap-drop") + 1] == "ALL"
    assert "no-new-privileges" in called


@pytest.mark.parametrize("injection", INJECTIONS)
def test_what_a_container_gets_runs_nothing_on_the_host(copy: Path, injection: str) -> None:
    settings = (f"BENCH=echo {injection}", f"BASE={injection}", f"DOCKER_USER={injection}")
    *_, build, run = make(copy, "docker-bench", *settings)
    assert build[build.index("--build-arg") + 1] == f"BASE={injection}"
    assert run[run.index("--user") + 1] == injection
    assert run[run.index("docker/bench.sh") + 1 :] == ["echo", *injection.split()]


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_server_in_a_container(copy: Path, injection: str) -> None:
    (copy / injection).mkdir()
    (copy / injection / "recipe.json").touch()
    settings = {"ARTIFACT": injection, "CPUS": injection, "MEMORY": injection, "PORT": injection}
    *_, build, called = make(copy, "docker-serve", *(f"{name}={value}" for name, value in settings.items()))
    assert build[build.index("--file") + 1] == "docker/serve.Dockerfile"
    assert {"--read-only", "no-new-privileges"} <= set(called)
    assert called[called.index("--cap-drop") + 1] == "ALL"
    assert called[called.index("--cpus") + 1] == called[called.index("--memory") + 1] == injection
    assert called[called.index("--publish") + 1] == f"127.0.0.1:{injection}:8000"
    assert called[called.index("--volume") + 1] == f"{copy}/{injection}:/artifact:ro"
    assert called[-1] == "vitquant-serve"


def test_an_engine_of_several_words(copy: Path) -> None:
    program(copy.parent / "bin/sudo", '#!/bin/sh\nexec "$@"\n')
    assert make(copy, "docker-build", "DOCKER=sudo docker")[-1][0] == "build"
