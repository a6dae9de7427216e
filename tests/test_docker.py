"""The container's files, as far as they need no engine: the Dockerfile, what it copies, the one-line errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCKER = REPOSITORY / "docker"
NOBODY = 65534


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def path_of(folder: Path, *programs: str) -> dict[str, str]:
    """An environment whose PATH holds these programs of the host and nothing else."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(shutil.which(program) or pytest.skip(f"{program} is absent"))
    return {"PATH": str(folder)}


def assert_one_line(process: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with exit code 2 and one line on stderr that says these words."""
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("Error: ")
    assert process.stderr.count("\n") == 1
    for word in words:
        assert word in process.stderr


def test_the_dockerfiles_are_clean() -> None:
    process = run(Path(sys.executable).with_name("hadolint"), DOCKER / "Dockerfile", DOCKER / "serve.Dockerfile")
    assert (process.returncode, process.stdout) == (0, "")


def test_a_code_change_keeps_the_layer_of_the_dependencies() -> None:
    steps = (DOCKER / "Dockerfile").read_text()
    dependencies, code = steps.index("--no-install-project"), steps.index("COPY . .")
    assert dependencies < code
    assert [line for line in steps[:dependencies].splitlines() if line.startswith(("COPY", "ADD"))] == [
        "COPY pyproject.toml uv.lock ./"
    ]


def test_code_and_what_it_and_its_tests_read_reach_the_image() -> None:
    """All is excluded first; what comes back in is tracked by git, and is no data, environment or result but a few."""
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert patterns[0] == "*"
    admitted = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert all((REPOSITORY / path).exists() for path in admitted)
    assert admitted.isdisjoint({".", "*", ".dvc", ".git", ".venv", "data", "models", "results", "experiments"})
    assert {
        ".dvc/plots",
        "results/cuda",
        "results/draws/README.md",
        "results/drift/README.md",
        "results/outliers/README.md",
        "results/studies/README.md",
        "results/figures",
        "results/findings.json",
        "results/serving/README.md",
    } <= admitted


@pytest.mark.parametrize("purpose", ["build", "run", "gpu"])
def test_without_an_engine(tmp_path: Path, purpose: str) -> None:
    process = run(DOCKER / "check.sh", purpose, "docker", env=path_of(tmp_path / "bin", "sh"))
    assert_one_line(process, "docker is not on PATH", "https://docs.docker.com/engine/install/")


@pytest.mark.parametrize("purpose", ["run", "gpu"])
def test_buildah_only_builds(tmp_path: Path, purpose: str) -> None:
    process = run(DOCKER / "check.sh", purpose, "buildah", env=path_of(tmp_path / "bin", "sh"))
    assert_one_line(process, "buildah only builds", "install Docker")


@pytest.mark.parametrize("target", ["docker-build", "docker-test", "docker-bench", "docker-serve"])
def test_make_says_the_line(tmp_path: Path, target: str) -> None:
    """Before it builds or runs anything; then one line of make's own."""
    environment = path_of(tmp_path / "bin", "sh", "id", "make", "uname")
    process = run("make", "-C", REPOSITORY, "--no-print-directory", target, "DOCKER=docker", env=environment)
    assert process.returncode == 2
    assert process.stdout == ""
    first, *rest = process.stderr.splitlines()
    assert first.startswith("Error: docker is not on PATH")
    assert len(rest) == 1


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results/cuda"
    results.mkdir(parents=True)
    (results / "some-gpu.json").write_text("{}\n")
    user = None
    if os.geteuid() == 0:  # who may write everywhere
        user = NOBODY
        for folder in (tmp_path, results.parent, results):
            os.chown(folder, NOBODY, NOBODY)

    def bench(*command: str) -> subprocess.CompletedProcess[str]:
        script = (DOCKER / "bench.sh").read_text()
        return run("sh", "-s", *command, input=script, cwd=tmp_path, user=user, env={"PATH": os.defpath})

    results.chmod(0o555)
    assert_one_line(bench("touch", "ran"), f"{results}: nothing was run", "chown")
    assert not (tmp_path / "ran").exists()
    assert (results / "some-gpu.json").read_text() == "{}\n"
    results.chmod(0o755)
    process = bench("touch", "ran")
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "ran").exists()
