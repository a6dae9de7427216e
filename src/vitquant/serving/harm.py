"""What becomes of requests while workers are killed, and of memory over many requests."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vitquant import artifact, recipes
from vitquant.artifact import open_artifact
from vitquant.errors import VitquantError
from vitquant.models.vit import ViTClassifier
from vitquant.params import Recipe
from vitquant.predictor import write_weights
from vitquant.results.serving import Kills, Soak
from vitquant.serving.capacity import answered_by, closed, outcomes
from vitquant.serving.loadtest import OK
from vitquant.serving.plan import Plan
from vitquant.serving.spawned import PATIENCE, Spawned, spawned

TINY, SIDE = "test_vit", 64  # timm's ViT for tests, and the pixels of its images
PAUSE = 0.01  # seconds between two requests that look whether it serves again
SETTLED = 1.0  # seconds of load before the first look at memory: what the first requests touch


def kill(server: Spawned, path: Path, fallback: str, images: Sequence[Path], plan: Plan) -> Kills:
    """Kill the worker of the artifact at `path` again and again while a closed loop asks for answers.

    Args:
        fallback: the recipe that the server falls back on.

    Raises:
        VitquantError: the worker does not come back.
    """
    own, image = open_artifact(path).spec.recipe, images[0].read_bytes()
    before, seconds = server.counted(), plan.kills * plan.kill_every
    probes: list[tuple[str, str | None]] = []
    again: list[float] = []
    own_again: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        load, start = thread.submit(closed, server.url, images, "files", plan.clients, seconds), time.perf_counter()
        for number in range(plan.kills):
            time.sleep(max(0.0, start + (number + 0.5) * plan.kill_every - time.perf_counter()))
            server.kill_workers(path)
            killed, first = time.perf_counter(), None
            while True:
                probes.append(server.ask(image))
                taken = time.perf_counter() - killed
                if probes[-1][0] == OK:
                    first = first or taken
                    if probes[-1][1] == own:
                        break
                if taken > PATIENCE:
                    raise VitquantError(f"the server does not serve {own} again {PATIENCE:g} s after its worker's end")
                time.sleep(PAUSE)
            again.append(round(first, 4))
            own_again.append(round(taken, 4))
        sent = load.result()
    served = Counter(answered_by(sent)) + Counter(recipe or "unknown" for status, recipe in probes if status == OK)
    return Kills(
        fallback=fallback,
        every=plan.kill_every,
        outcomes=dict(Counter(outcomes(sent)) + Counter(status for status, _ in probes)),
        recipes=dict(served),
        counted=server.counted() - before,
        again_s=again,
        own_s=own_again,
    )


def soak(fp32: Path, images: Sequence[Path], folder: Path, plan: Plan) -> Soak:
    """Ask a server of a tiny artifact again and again, and look at its memory.

    Args:
        fp32: an artifact whose classes and normalisation it gets.
        folder: to make it in.
    """
    path = _tiny(fp32, folder)
    counts: Counter[str] = Counter()
    with spawned(folder, path, max_batch=1) as server:
        counts.update(outcomes(closed(server.url, images, "files", plan.clients, min(SETTLED, plan.soak_seconds))))
        looks, start = [(counts[OK], server.resident_bytes())], time.perf_counter()
        for _ in range(plan.looks):
            sent = closed(server.url, images, "files", plan.clients, plan.soak_seconds / plan.looks)
            counts.update(outcomes(sent))
            looks.append((counts[OK], server.resident_bytes()))
            if counts.total() >= plan.soak_requests:
                break
        seconds = time.perf_counter() - start
    return Soak(
        architecture=TINY,
        method="vitquant_int8",
        requests=[answered for answered, _ in looks],
        resident_bytes=[resident for _, resident in looks],
        outcomes=dict(counts),
        seconds=round(seconds, 3),
    )


def _tiny(fp32: Path, folder: Path) -> Path:
    """An artifact of a tiny ViT with random weights, quantized."""
    like = open_artifact(fp32).spec
    model = ViTClassifier(TINY, SIDE, len(like.classes)).eval()

    def fill(directory: Path) -> dict[str, Any]:
        write_weights(directory, model.state_dict())
        return {}

    preprocessing = like.preprocessing.model_copy(update={"resize": SIDE, "crop": SIDE})
    changes = {"architecture": TINY, "preprocessing": preprocessing, "pooling": model.pooling, "details": {}}
    artifact.write(folder / "fp32", like.model_copy(update=changes), fill)
    noise = np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
    recipes.build("tiny", Recipe(method="vitquant_int8"), folder / "fp32", folder / "tiny", noise)
    return folder / "tiny"
