"""A server that keeps a sample of the images: what they are, a full disk, and a new start."""

import re
import resource
import signal
from pathlib import Path

import numpy as np

from vitquant.artifact import open_artifact
from vitquant.monitoring import reservoir

from .running import Running, serve

NAME = "vitquant-int8"


def kept(running: Running) -> float:
    return running.metric("vitquant_kept_images_total")


def test_images_are_kept_as_the_model_sees_them(artifacts: Path, images: Path, tmp_path: Path) -> None:
    folder, contents = tmp_path / "kept", sorted(images.rglob("*.png"))[:6]
    seen = open_artifact(artifacts / NAME).spec.preprocessing.batch(contents, "the model")
    with serve(tmp_path, artifacts / NAME, keep_images=folder, keep=6) as running:
        running.warm(NAME)
        for path in contents[:5]:
            assert running.post(path.read_bytes()).status_code == 200
        running.wait(lambda: kept(running) == 5)
        np.testing.assert_array_equal(reservoir.read(folder), seen[:5])
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (4000, limits[1]))
        try:
            for _ in range(40):  # some of which are drawn: the first to fill the sample, another all but certainly
                assert running.post(contents[5].read_bytes()).status_code == 200
            running.wait(lambda: running.metric('vitquant_not_kept_images_total{why="disk"}') >= 2)
        finally:
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limits)
        assert running.log.count("images are not kept, and counted; serving goes on") == 1
        np.testing.assert_array_equal(reservoir.read(folder), seen[:5])
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait() == 0
    with serve(tmp_path, artifacts / NAME, keep_images=folder, keep=6) as running:
        running.warm(NAME)
        assert re.search(r"a sample of 6 of the images is kept; seen before: 45\n", running.log)
