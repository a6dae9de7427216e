from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitquant import artifact
from vitquant.errors import VitquantError
from vitquant.models.loading import load_model
from vitquant.models.vit import ViTClassifier
from vitquant.quantization.observe import SAMPLE_IMAGES, Inputs, observe

NAMES = [f"backbone.blocks.{block}.{layer}" for block in (0, 5) for layer in ("attn.qkv", "mlp.fc2")]


@pytest.fixture(scope="module")
def model(fp32: Path) -> ViTClassifier:
    return load_model(artifact.open_artifact(fp32))


@pytest.fixture(scope="module")
def photographs(model: ViTClassifier, fp32: Path, calibration) -> Tensor:
    return artifact.open_artifact(fp32).spec.preprocessing.normalise(torch.from_numpy(calibration))


@pytest.fixture(scope="module")
def captured(model: ViTClassifier, photographs: Tensor) -> dict[str, Tensor]:
    """The inputs of each layer on all images at once, float64 (images, tokens, K)."""
    inputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: inputs.update({name: args[0].double()})
        )
        for name in NAMES
    ]
    with torch.inference_mode():
        model(photographs)
    for handle in handles:
        handle.remove()
    return inputs


@pytest.fixture(scope="module")
def seen(model: ViTClassifier, photographs: Tensor) -> dict[str, Inputs]:
    return observe(model, photographs.split(5), NAMES, Inputs)  # the last batch is smaller


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seen_equals_a_direct_computation(
    seen: dict[str, Inputs], captured: dict[str, Tensor], name: str
) -> None:
    own, tokens = seen[name], captured[name].flatten(0, -2)
    assert own.count == len(tokens) == 12 * 17
    assert torch.allclose(own.lowest.double(), tokens.amin(0), atol=1e-5)
    assert torch.allclose(own.highest.double(), tokens.amax(0), atol=1e-5)
    assert torch.allclose(own.mean, tokens.mean(0), atol=1e-5)
    centred = tokens - tokens.mean(0)
    assert torch.allclose(own.scatter, centred.T @ centred, rtol=1e-5, atol=1e-5 * len(tokens))
    assert torch.allclose(own.moment(), tokens.T @ tokens, rtol=1e-5, atol=1e-5 * len(tokens))
    about = tokens - own.lowest
    assert torch.allclose(own.moment(own.lowest), about.T @ about, rtol=1e-5, atol=1e-5 * len(tokens))
    assert (own.mean.dtype, own.scatter.dtype) == (torch.float64, torch.float64)


def test_a_small_spread_survives_beside_a_large_mean() -> None:
    """Of products that are not centred, single precision would leave nothing but noise of either sign."""
    tokens = 0.01 * torch.randn(60, 20, 8, generator=torch.Generator().manual_seed(0))
    tokens += torch.tensor([0.0, 1.0, -1.0, 10.0, 300.0, -300.0, 1000.0, 1000.0])
    tokens[:, :, 7] = 1000.0  # and a channel that never changes
    own = observe(nn.Sequential(nn.Linear(8, 2)), tokens.split(7), ["0"], Inputs)["0"]
    centred = (tokens.double() - tokens.double().mean(dim=(0, 1))).flatten(0, 1)
    direct = centred.T @ centred
    assert torch.allclose(own.moment(own.mean), direct, atol=1e-6 * float(direct.max()))
    assert own.scatter[7].eq(0).all()
    assert torch.linalg.eigvalsh(own.moment(own.lowest))[0] > -1e-6 * own.scatter.max()


def test_inputs_that_are_not_finite_are_refused() -> None:
    tokens = torch.zeros(2, 3, 4)
    tokens[1, 2, 3] = torch.nan
    with pytest.raises(VitquantError, match="0 sees NaN or infinity on the calibration images"):
        observe(nn.Sequential(nn.Linear(4, 2)), [tokens], ["0"], Inputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_is_whole_images(seen: dict[str, Inputs], captured: dict[str, Tensor], name: str) -> None:
    assert torch.allclose(seen[name].sample.double(), captured[name][:SAMPLE_IMAGES], atol=1e-5)


def test_only_the_named_layers_are_seen(seen: dict[str, Inputs]) -> None:
    assert set(seen) == set(NAMES)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_no_hook_is_left_behind(model: ViTClassifier, photographs: Tensor) -> None:
    observe(model, photographs[:1].split(1), NAMES, Inputs)
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        observe(model, [photographs[:, :1]], NAMES, Inputs)  # one colour plane: the model fails
    assert hooks(model) == 0
