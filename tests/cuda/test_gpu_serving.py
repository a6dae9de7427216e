"""The server on a GPU: the study of serving, in brief. Runs where there is a CUDA device."""

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import mini_study

from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.results import form
from vitquant.results.gpu import file_of
from vitquant.results.serving import OK, Serving

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_study_of_serving_runs_on_a_gpu(images: Path, fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    study = mini_study(images)
    study["cuda"]["recipes"]["bf16"] = {"method": "floating_point", "dtype": "bfloat16", "compile": False}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    options = ["--device", "cuda", "--brief", "--recipe", "bf16", "--fallback", "fp32", "--out", str(tmp_path)]
    folders = ["--fp32", str(fp32), "--data", str(prepared.path)]
    result = CliRunner().invoke(main, ["--params", str(tmp_path / "params.yaml"), "serving", *options, *folders])
    assert result.exit_code == 0, result.output
    device = torch.cuda.get_device_name()
    found = form.read(file_of(tmp_path, device), Serving)
    assert (found.device, found.environment.gpu, found.soak) == ("cuda", device, None)
    assert {(each.sent, each.server.max_batch) for each in found.throughput} == {
        (sent, size) for sent in ("files", "pixels") for size in (1, 8)
    }
    assert all(set(each.outcomes) == {OK} for each in found.throughput)
    assert found.kills.recipes["bf16"]
    assert found.kills.counted == found.kills.outcomes[OK]
