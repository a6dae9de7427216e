import pytest
import torch
from torch import Tensor

from vitquant.quantization import rounding

OUTPUTS, INPUTS, TOKENS = 24, 200, 1000  # more inputs than GPTQ's block of columns


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return random(OUTPUTS, INPUTS)


@pytest.fixture(scope="module")
def correlated() -> Tensor:
    """Inputs of which a few directions hold nearly all, and some channels are larger than others."""
    return (random(TOKENS, 20, seed=1) @ random(20, INPUTS, seed=2) + 0.1 * random(TOKENS, INPUTS, seed=3)) * (
        torch.linspace(0.1, 3, INPUTS)
    )


def moment(tokens: Tensor) -> Tensor:
    return tokens.double().T @ tokens.double()


def restored(integers: Tensor, scale: Tensor) -> Tensor:
    return integers * scale[:, None]


def output_error(tokens: Tensor, weight: Tensor, rounded: Tensor) -> float:
    return float(torch.linalg.norm(tokens @ (weight - rounded).T))


def test_the_scale_of_a_channel_is_its_largest_magnitude_over_127() -> None:
    weight = torch.tensor([[1.0, -254.0, 3.0], [12.7, 0.0, -1.0]])
    assert torch.allclose(rounding.scales(weight), torch.tensor([2.0, 0.1]))


def test_a_channel_of_zeros_becomes_zeros() -> None:
    weight = torch.zeros(2, 3)
    scale = rounding.scales(weight)
    assert (scale > 0).all()
    for integers in (rounding.nearest(weight, scale), rounding.gptq(weight, scale, torch.eye(3).double())):
        assert torch.equal(integers, torch.zeros(2, 3, dtype=torch.int8))


def test_nearest_is_within_half_a_step(weight: Tensor) -> None:
    scale = rounding.scales(weight)
    integers = rounding.nearest(weight, scale)
    assert integers.dtype == torch.int8
    assert ((restored(integers, scale) - weight).abs() <= scale[:, None] * 0.5001).all()
    assert integers.abs().amax(dim=1).tolist() == [127] * OUTPUTS  # the scale is used to its end


def test_gptq_keeps_the_outputs_better_than_nearest(weight: Tensor, correlated: Tensor) -> None:
    scale = rounding.scales(weight)
    nearest = restored(rounding.nearest(weight, scale), scale)
    gptq = restored(rounding.gptq(weight, scale, moment(correlated)), scale)
    assert output_error(correlated, weight, gptq) < 0.3 * output_error(correlated, weight, nearest)
    assert torch.linalg.norm(gptq - weight) > torch.linalg.norm(nearest - weight)  # no weight by itself is nearer


def test_gptq_gives_integers_within_127(weight: Tensor, correlated: Tensor) -> None:
    narrow = rounding.scales(weight) / 2  # so that half the range does not fit
    integers = rounding.gptq(weight, narrow, moment(correlated))
    assert (integers.dtype, integers.shape) == (torch.int8, weight.shape)
    assert (int(integers.min()), int(integers.max())) == (-127, 127)


def test_gptq_is_nearest_where_inputs_are_uncorrelated(weight: Tensor) -> None:
    scale = rounding.scales(weight)
    for diagonal in (torch.ones(INPUTS), torch.linspace(0.1, 9, INPUTS)):
        assert torch.equal(rounding.gptq(weight, scale, torch.diag(diagonal).double()), rounding.nearest(weight, scale))


def test_gptq_takes_inputs_that_are_always_zero(weight: Tensor, correlated: Tensor) -> None:
    tokens = correlated.clone()
    tokens[:, [0, 3, 150]] = 0
    scale = rounding.scales(weight)
    integers = rounding.gptq(weight, scale, moment(tokens))
    nearest = rounding.nearest(weight, scale)
    assert torch.equal(integers[:, [0, 3, 150]], nearest[:, [0, 3, 150]])
    assert output_error(tokens, weight, restored(integers, scale)) < output_error(
        tokens, weight, restored(nearest, scale)
    )


def test_gptq_takes_a_layer_that_sees_only_zeros(weight: Tensor) -> None:
    scale = rounding.scales(weight)
    moment = torch.zeros(INPUTS, INPUTS, dtype=torch.float64)
    assert torch.equal(rounding.gptq(weight, scale, moment), rounding.nearest(weight, scale))


def test_gptq_leaves_its_arguments_alone(weight: Tensor, correlated: Tensor) -> None:
    own, second = weight.clone(), moment(correlated)
    rounding.gptq(own, rounding.scales(own), second)
    assert torch.equal(own, weight)
    assert torch.equal(second, moment(correlated))


SIZE = 40


def by_group(integers: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    return (integers.unflatten(1, (-1, SIZE)) * scale[:, :, None] + minimum[:, :, None]).flatten(1)


def test_int4_is_nearest_on_each_groups_range_where_inputs_are_uncorrelated(weight: Tensor) -> None:
    integers, scale, minimum = rounding.gptq_groups(weight, torch.eye(INPUTS).double(), SIZE)
    groups = weight.unflatten(1, (-1, SIZE))
    assert torch.equal(minimum, groups.amin(dim=2).bfloat16().float())
    assert torch.equal(scale, ((groups.amax(dim=2) - minimum) / 15).bfloat16().float())
    assert (integers.dtype, int(integers.min()), int(integers.max())) == (torch.uint8, 0, 15)
    assert ((by_group(integers, scale, minimum) - weight).abs() <= 0.6 * scale.repeat_interleave(SIZE, dim=1)).all()


def test_int4_keeps_the_outputs_better_than_nearest(weight: Tensor, correlated: Tensor) -> None:
    nearest = by_group(*rounding.gptq_groups(weight, torch.eye(INPUTS).double(), SIZE))
    gptq = by_group(*rounding.gptq_groups(weight, moment(correlated), SIZE))
    assert output_error(correlated, weight, gptq) < 0.5 * output_error(correlated, weight, nearest)


def test_int4_takes_groups_of_one_value_and_inputs_that_are_always_zero(correlated: Tensor) -> None:
    weight, tokens = random(OUTPUTS, INPUTS), correlated.clone()
    weight[:, :SIZE], weight[3] = 0.3, 0
    tokens[:, [0, 3, 150]] = 0
    rounded = by_group(*rounding.gptq_groups(weight, moment(tokens), SIZE))
    assert torch.isfinite(rounded).all()
    assert (rounded[3] == 0).all()
    assert output_error(tokens, weight, rounded) < 0.1 * float(torch.linalg.norm(tokens @ weight.T))


def sums_by_hand(integers: Tensor) -> Tensor:
    """Of the positive integers of the first two inputs of four and of the next four, and so on."""
    groups = [[start, start + 1, start + 4, start + 5] for eight in range(0, INPUTS, 8) for start in (eight, eight + 2)]
    return torch.stack([integers[:, group].clamp(min=0).int().sum(dim=1) for group in groups], dim=1)


def test_sums_of_four_are_those_of_each_sign() -> None:
    integers = torch.randint(-127, 128, (5, INPUTS), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    positive, negative = rounding.sums_of_four(integers)
    assert torch.equal(positive, sums_by_hand(integers))
    assert torch.equal(negative, sums_by_hand(-integers))


def test_gptq_within_keeps_to_the_sum_and_nearly_to_the_outputs(weight: Tensor, correlated: Tensor) -> None:
    second, narrow = moment(correlated), rounding.scales(weight)
    free = rounding.gptq(weight, narrow, second)
    assert rounding.sums_of_four(free).max() > 191  # so that there is something to keep to
    integers, scale = rounding.gptq_within(weight, second, 191)
    assert (integers.dtype, integers.shape, scale.shape) == (torch.int8, weight.shape, narrow.shape)
    assert rounding.sums_of_four(integers).max() <= 191
    least, error, nearest = (
        output_error(correlated, weight, restored(*quantized))
        for quantized in ((free, narrow), (integers, scale), (rounding.nearest(weight, narrow), narrow))
    )
    assert least < error < min(2 * least, nearest)


def test_gptq_within_a_sum_that_nothing_exceeds_is_no_worse_than_gptq(weight: Tensor, correlated: Tensor) -> None:
    second, narrow = moment(correlated), rounding.scales(weight)
    within, free = rounding.gptq_within(weight, second, 4 * 127), (rounding.gptq(weight, narrow, second), narrow)
    error, least = (output_error(correlated, weight, restored(*quantized)) for quantized in (within, free))
    assert error <= least * 1.0001
