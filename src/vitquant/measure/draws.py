"""Top-1 with other draws of the calibration images, of the probe's held-out part, and of the split.

FP32 artifact and recipes are made with a head that hands on the features, float32 (N, 2 × width), instead of logits:
the head stays FP32 in these recipes, and nothing before it depends on it. What any probe makes of the features is then
one product, and FP32's features of an image are computed once, whatever split it is in.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant import artifact, files, recipes
from vitquant.artifact import Artifact, open_artifact
from vitquant.cpu import threads
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.data.samples import Split
from vitquant.data.sources import SOURCES
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure.environment import git_commit
from vitquant.models import probe
from vitquant.parallel import choose_device, map_batches
from vitquant.params import BASELINE, Params
from vitquant.predictor import read_weights, write_weights
from vitquant.results import draws, form, predictions
from vitquant.results.accuracy import Accuracy
from vitquant.results.draws import Draws, Kind, Row
from vitquant.results.facts import facts
from vitquant.results.hits import discordant, hits

Features = NDArray[np.float32]
SECTIONS: dict[Kind, str] = {"calibration": "calibration", "probe": "probe", "split": "data"}  # whose seed it is


@dataclass(frozen=True)
class Draw:
    """A kind of draw, and its seed; the others are the study's own."""

    kind: Kind
    seed: int

    def apply(self, params: Params) -> Params:
        """The study, with this draw."""
        section = getattr(params, SECTIONS[self.kind])
        return params.model_copy(update={SECTIONS[self.kind]: section.model_copy(update={"seed": self.seed})})


def measure(params: Params, names: Sequence[str], seeds: int, root: Path, out: Path) -> Draws:
    """Write draws.json into the folder `out`, row by row; only what it lacks, or has of other inputs, is computed.

    Args:
        names: of the recipes.
        seeds: of each kind: the study's own, and the smallest others.
        root: the repository, where `dvc repro` has run.

    Raises:
        VitquantError: the study has not run, has no accuracy, or not these recipes.
    """
    return _Study(params, root, out / draws.FILE).measure(names, seeds)


class _Study:
    def __init__(self, params: Params, root: Path, out: Path) -> None:
        if params.head in ("none", "features"):
            raise VitquantError(f"head: {params.head}: there is no classifier, so that no draw can change its accuracy")
        self.params = params
        self.root, self.out, self.folder = root, out, root / "models/draws"
        self.own = Prepared(root / "data/processed")
        self.baseline = open_artifact(root / "models/baseline")
        self.samples = SOURCES[params.data.source].samples(params.data, root / "data/raw")
        self.heads: dict[tuple[int, int], nn.Linear] = {}
        study, before = facts(params, self.own), form.read(out, Draws) if out.exists() else None
        self.draws = Draws(study=study, rows=before.rows if before and before.study == study else [])
        self.commit = git_commit() or "unknown: not a git checkout"

    def measure(self, names: Sequence[str], seeds: int) -> Draws:
        studied = {name: self._studied(name) for name in dict.fromkeys((BASELINE, *names))}
        own = studied.pop(BASELINE)
        inputs = {
            name: draws.inputs(self.params, name, logits, own)
            for name, logits in studied.items()
            if logits and own and name != BASELINE
        }
        self.draws.rows = [row for row in self.draws.rows if inputs.get(row.recipe, row.inputs) == row.inputs]
        fp32 = self._with_features(self.folder / BASELINE)
        for group in self._plan(seeds):
            there = {(row.kind, row.seed, row.recipe) for row in self.draws.rows}
            missing = {name: [draw for draw in group if (draw.kind, draw.seed, name) not in there] for name in inputs}
            if not any(missing.values()):
                continue
            with self._prepared(group[0]) as prepared:
                baseline = self._features(fp32, prepared, "val", own or "")
                calibration = prepared.calibration(group[0].apply(self.params).calibration)
                for name, wanted in missing.items():
                    try:
                        found = self._recipe(name, fp32, prepared, calibration, inputs[name]) if wanted else baseline
                    except UnsupportedError as reason:
                        self.draws.left_out[name] = str(reason)
                        continue
                    for draw in wanted:
                        head = self._head(draw.apply(self.params), prepared, fp32, own or "")
                        self._add(draw, name, prepared, head(baseline), head(found), inputs[name])
        form.write(self.out, self.draws)
        return self.draws

    def _studied(self, name: str) -> str | None:
        """SHA-256 of the logits that the study has of a recipe; None, and the reason noted, where it has none."""
        if name not in self.params.recipes:
            raise VitquantError(f"unknown recipe {name!r}: params.yaml has {', '.join(self.params.recipes)}")
        accuracy = form.read(self.root / f"results/accuracy/{name}.json", Accuracy)
        if not accuracy.predicted:
            self.draws.left_out[name] = accuracy.unavailable or "it has no accuracy"
            return None
        return accuracy.predicted.logits_sha256

    def _plan(self, seeds: int) -> Iterator[list[Draw]]:
        """The draws, those together that need the same build of a recipe; a reason for each kind that has none."""
        own = {kind: getattr(self.params, section).seed for kind, section in SECTIONS.items()}
        others = {kind: [seed for seed in range(seeds) if seed != own[kind]][: seeds - 1] for kind in SECTIONS}
        if self.params.head != "probe":
            self.draws.left_out["probe"] = f"head: {self.params.head}: no probe is fitted"
            del own["probe"]
        if all(sample.split for sample in self.samples):
            self.draws.left_out["split"] = f"data.source: {self.params.data.source}: the data has a split of its own"
            del own["split"]
        probes = [Draw("probe", seed) for seed in others["probe"]] if "probe" in own else []
        yield [*(Draw(kind, seed) for kind, seed in own.items()), *probes]
        for index in range(seeds - 1):
            for kind in ("calibration", "split"):
                if kind in own:
                    yield [Draw(kind, others[kind][index])]

    @contextmanager
    def _prepared(self, draw: Draw) -> Iterator[Prepared]:
        """The images as `prepare` splits them with this draw, for as long as they are needed."""
        params = draw.apply(self.params)
        if params.data.seed == self.params.data.seed:
            yield self.own
            return
        folder = self.folder / "processed"
        try:
            prepare(self.samples, self.own.preprocessing, params.data, folder)
            yield Prepared(folder)
        finally:
            files.remove(folder)

    def _with_features(self, path: Path) -> Artifact:
        """The FP32 artifact with a head that hands on the features: as many classes, its weight the identity."""
        tensors = read_weights(self.baseline.path)
        width = tensors["head.weight"].shape[1]
        tensors |= {"head.weight": torch.eye(width), "head.bias": torch.zeros(width)}
        spec = self.baseline.spec.model_copy(
            update={"classes": [f"feature {index}" for index in range(width)], "details": {}, "files": {}}
        )

        def fill(directory: Path) -> dict[str, object]:
            write_weights(directory, tensors)
            return {}

        artifact.write(path, spec, fill)
        return open_artifact(path)

    def _recipe(
        self, name: str, fp32: Artifact, prepared: Prepared, calibration: NDArray[np.uint8], inputs: str
    ) -> Features:
        """The recipe's features of the validation images, built with these calibration images."""
        path = self.folder / name
        try:
            recipes.build(name, self.params.recipes[name], fp32.path, path, calibration)
            return self._features(open_artifact(path), prepared, "val", inputs)
        finally:
            files.remove(path)

    def _features(self, built: Artifact, prepared: Prepared, split: Split, inputs: str) -> Features:
        """An artifact's features of a split's images, (N, 2 × width); those of an image are computed once and kept."""
        content = [inputs, {name: digest.sha256 for name, digest in built.spec.files.items()}]
        kept = self.folder / f"{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}.npz"
        manifest = pd.read_csv(prepared.path / "manifest.csv", keep_default_na=False)
        wanted = manifest.loc[manifest["split"] == split, "sha256"].to_numpy(str)  # of the image files
        known = predictions.read(kept) if kept.exists() else {"images": np.empty(0, str)}
        missing = np.flatnonzero(~np.isin(wanted, known["images"]))
        if len(missing):
            new = self._run(built, prepared.images(split)[missing])
            known = {
                "images": np.concatenate([known["images"], wanted[missing]]),
                "features": np.concatenate([known["features"], new]) if "features" in known else new,
            }
            predictions.write(kept, known)
        rows = {image: row for row, image in enumerate(known["images"].tolist())}
        features: Features = known["features"][[rows[image] for image in wanted.tolist()]]
        return features

    def _run(self, built: Artifact, images: NDArray[np.uint8]) -> Features:
        predictor = recipes.load(built.path, choose_device(self.params.device))

        def function(batch: Tensor) -> Tensor:
            return torch.from_numpy(predictor.outputs(batch)[:, : len(built.spec.classes)])

        what = f"features of {built.spec.recipe}"
        return map_batches(function, images, self.params.evaluate, predictor.device, threads(self.params.threads), what)

    def _head(self, params: Params, prepared: Prepared, fp32: Artifact, inputs: str) -> Callable[[Features], Features]:
        """From features (N, 2 × width) to logits (N, C): the study's own head, or the probe that a draw gives."""
        own = self.params.data.seed, self.params.probe.seed
        key = params.data.seed, params.probe.seed if params.head == "probe" else own[1]
        if key not in self.heads:
            tensors = read_weights(self.baseline.path)
            classes, width = tensors["head.weight"].shape
            head = nn.Linear(width, classes).requires_grad_(False)
            head.weight.copy_(tensors["head.weight"])
            head.bias.copy_(tensors["head.bias"])
            if params.head == "probe" and key != own:
                probe.fit(self._features(fp32, prepared, "train", inputs), prepared.labels("train"), params.probe, head)
            self.heads[key] = head
        head = self.heads[key]
        return lambda features: head(torch.from_numpy(features)).numpy()

    def _add(self, draw: Draw, name: str, prepared: Prepared, fp32: Features, found: Features, inputs: str) -> None:
        """Write one more row, of the logits of FP32 and of the recipe."""
        labels, as_studied = prepared.labels("val"), None
        ours, theirs = hits(found, labels, 1), hits(fp32, labels, 1)
        gained, lost = discordant(ours, theirs)
        if draw.apply(self.params) == self.params:
            studied = predictions.read(self.root / f"results/predictions/{name}.npz")["logits"]
            as_studied = int((studied.argmax(axis=1) == found.argmax(axis=1)).sum())
        row = Row(
            kind=draw.kind, seed=draw.seed, recipe=name, images=len(labels), hits=int(ours.sum()),
            fp32_hits=int(theirs.sum()), gained=gained, lost=lost, as_studied=as_studied, inputs=inputs,
            commit=self.commit,
        )  # fmt: skip
        self.draws.rows.append(row)
        form.write(self.out, self.draws)
