"""How recipes bear outliers: the study's FP32 weights with more and more of them, quantized, against FP32 on the same.

Large ViTs have a few channels whose activations exceed all others, and without registers a few tokens do (Darcet et al.
2024, arXiv:2309.16588); small ones hardly do. Here either kind is put into the study's own weights, by a factor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant import artifact, files, recipes
from vitquant.artifact import Artifact, open_artifact
from vitquant.cpu import threads
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure.environment import environment
from vitquant.models.loading import load_model
from vitquant.parallel import choose_device, map_batches
from vitquant.params import BASELINE, Params
from vitquant.predictor import write_weights
from vitquant.quantization.smoothing import check_blocks
from vitquant.results import form, outliers
from vitquant.results.hits import discordant, hits
from vitquant.results.outliers import KINDS, Kind, Outliers, Row

Logits = NDArray[np.float32]
CHANNELS = 4  # of each LayerNorm
OBSERVED = 8  # calibration images that tell how large tokens are


def with_channels(model: Any, factor: float) -> None:
    """Multiply a few channels of each block's LayerNorms, and divide what reads them, in place: the same function.

    They are the CHANNELS of the greatest gain: their gains and shifts grow by the factor, and the columns of the linear
    layer behind, qkv or fc1, shrink by it.
    """
    for block in model.backbone.blocks:
        for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            channels = norm.weight.abs().topk(CHANNELS).indices
            norm.weight[channels] *= factor
            norm.bias[channels] *= factor
            layer.weight[:, channels] /= factor


def with_tokens(model: Any, factor: float, images: Tensor) -> None:
    """Give the tokens of the image's four corner patches a norm of about `factor` times the others', in place.

    One channel, that of the greatest gain, of their positions grows by factor - 1 times the mean norm of the tokens
    before the last block; residual sums hand it on to all blocks. What those patches showed is lost in it, so that this
    is another function: another FP32.

    Args:
        images: preprocessed, float32 (N, 3, H, W), whose tokens are looked at.
    """
    backbone = model.backbone
    norms: list[Tensor] = []
    hook = backbone.blocks[-1].register_forward_pre_hook(lambda _, inputs: norms.append(inputs[0].norm(dim=-1).mean()))
    with torch.inference_mode():
        model(images)
    hook.remove()
    gains = sum(block.norm1.weight.abs() + block.norm2.weight.abs() for block in backbone.blocks)
    height, width = backbone.patch_embed.grid_size
    corners = [0, width - 1, (height - 1) * width, height * width - 1]
    positions = backbone.pos_embed[0, -height * width :]
    positions[corners, int(gains.argmax())] += (factor - 1) * float(norms[0])


def measure(
    params: Params, names: Sequence[str], factors: Sequence[float], images: int, root: Path, out: Path
) -> Outliers:
    """Write outliers.json into the folder `out`, anew after each factor.

    Args:
        names: of the recipes, beside FP32.
        factors: beside 1, the study's own weights.
        images: of the validation split, evenly over its classes.
        root: the repository, where `dvc repro` has run as far as stage `baseline`.

    Raises:
        VitquantError: that has not run, the study has no classifier or not these recipes, or its blocks are not plain.
    """
    return _Study(params, root, images).measure(names, factors, out)


class _Study:
    def __init__(self, params: Params, root: Path, images: int) -> None:
        if params.head in ("none", "features"):
            raise VitquantError(f"head: {params.head}: there is no classifier, so that no predictions can agree")
        self.params, self.folder = params, root / "models/outliers"
        self.baseline = open_artifact(root / "models/baseline")
        check_blocks(load_model(self.baseline))
        prepared = Prepared(root / "data/processed")
        self.calibration = prepared.calibration(params.calibration)
        by_class = np.argsort(prepared.labels("val"), kind="stable")
        places = np.linspace(0, len(by_class) - 1, min(images, len(by_class))).round().astype(int)
        rows = np.sort(by_class[places])
        self.images, self.labels = prepared.images("val")[rows], prepared.labels("val")[rows]

    def measure(self, names: Sequence[str], factors: Sequence[float], out: Path) -> Outliers:
        names = [name for name in dict.fromkeys(names) if name != BASELINE]
        if unknown := [name for name in names if name not in self.params.recipes]:
            raise VitquantError(f"unknown recipe {unknown[0]!r}: params.yaml has {', '.join(self.params.recipes)}")
        rows: list[Row] = []
        left_out: dict[str, str] = {}
        here = environment(threads=threads(self.params.threads))
        plan: list[tuple[Sequence[Kind], float]] = [(KINDS, 1.0)]
        plan += [((kind,), factor) for factor in dict.fromkeys(factors) if factor != 1 for kind in KINDS]
        try:
            studied = self._predict(self.baseline)
            for kinds, factor in plan:
                fp32 = self.baseline if factor == 1 else self._with_outliers(kinds[0], factor)
                baseline = studied if factor == 1 else self._predict(fp32)
                rows += self._rows(kinds, factor, BASELINE, baseline, studied)
                for name in names:
                    if name in left_out:
                        continue
                    try:
                        rows += self._rows(kinds, factor, name, self._recipe(name, fp32), baseline)
                    except UnsupportedError as reason:
                        left_out[name] = str(reason)
                measured = Outliers(
                    images=len(self.labels),
                    inputs=outliers.inputs(self.params, dict.fromkeys(row.recipe for row in rows)),
                    environment=here,
                    rows=rows,
                    left_out=left_out,
                )
                form.write(out / outliers.FILE, measured)
        finally:
            files.remove(self.folder)
        return measured

    def _with_outliers(self, kind: Kind, factor: float) -> Artifact:
        """The FP32 artifact with outliers."""
        model = load_model(self.baseline)
        spec = self.baseline.spec.model_copy(update={"details": {}, "files": {}})
        if kind == "channels":
            with_channels(model, factor)
        else:
            images = torch.from_numpy(self.calibration[:OBSERVED])
            with_tokens(model, factor, spec.preprocessing.normalise(images))

        def fill(directory: Path) -> dict[str, object]:
            write_weights(directory, model.state_dict())
            return {}

        artifact.write(self.folder / BASELINE, spec, fill)
        return open_artifact(self.folder / BASELINE)

    def _recipe(self, name: str, fp32: Artifact) -> Logits:
        path = self.folder / name
        recipes.build(name, self.params.recipes[name], fp32.path, path, self.calibration)
        return self._predict(open_artifact(path))

    def _predict(self, built: Artifact) -> Logits:
        """Float32 (N, C)."""
        predictor = recipes.load(built.path, choose_device(self.params.device))

        def function(batch: Tensor) -> Tensor:
            return torch.from_numpy(predictor.outputs(batch)[:, : len(built.spec.classes)])

        cores, what = threads(self.params.threads), f"predict {built.spec.recipe}"
        return map_batches(function, self.images, self.params.evaluate, predictor.device, cores, what)

    def _rows(self, kinds: Sequence[Kind], factor: float, name: str, found: Logits, fp32: Logits) -> list[Row]:
        """What logits say beside FP32's; at factor 1 both kinds say the same."""
        ours, theirs = hits(found, self.labels, 1), hits(fp32, self.labels, 1)
        gained, lost = discordant(ours, theirs)
        row = Row(
            kind=kinds[0], factor=factor, recipe=name, agreeing=int((found.argmax(1) == fp32.argmax(1)).sum()),
            hits=int(ours.sum()), gained=gained, lost=lost, moved=float(np.abs(found - fp32).max()),
        )  # fmt: skip
        return [row.model_copy(update={"kind": kind}) for kind in kinds]
