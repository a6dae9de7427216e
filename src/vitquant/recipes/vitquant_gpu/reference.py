"""What the kernels compute, in PyTorch, on any device: for the CPU, and to compare with.

Everything is rounded where the kernels round, so that the two differ by the order of sums and by GELU's approximation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.recipes.vitquant_gpu.shape import GROUP, Shape
from vitquant.recipes.vitquant_gpu.weights import TOP, TYPES

NUMBERS = {dtype: name for name, dtype in TYPES.items()}
TINY = 1e-12


class Reference:
    """A quantized ViT.

    Args:
        tensors: of the artifact.
        positions: float32 (tokens, width).
        shape: of the model.
        static: the artifact's scales of attention's and GELU's outputs are fixed.
    """

    def __init__(self, tensors: dict[str, Tensor], positions: Tensor, shape: Shape, *, static: bool) -> None:
        self.tensors, self.shape, self.static = tensors, shape, static
        number = NUMBERS[tensors["backbone.blocks.0.attn.qkv.weight"].dtype]
        self.number, self.quantized = number, number in TOP
        self.floats = torch.float16 if self.quantized else TYPES[number]
        self.positions = self._16(positions)

    def __call__(self, images: Tensor) -> Tensor:
        """Images, float32 (N, 3, H, H), to logits and class token, float32 (N, classes + width)."""
        shape, tensors = self.shape, self.tensors
        kernel, bias = (tensors[f"backbone.patch_embed.proj.{part}"] for part in ("weight", "bias"))
        embedded = F.conv2d(self._16(images), self._16(kernel), bias, stride=shape.side).flatten(2).transpose(1, 2)
        first = self.positions[: shape.prefix].expand(len(images), -1, -1)
        x = torch.cat([first, self._16(embedded + self.positions[shape.prefix :])], dim=1)
        for index in range(shape.blocks):
            x = self._block(index, x)
        last = self._norm("backbone.norm", x, shape.last_epsilon)
        class_token = last[:, 0]
        features = torch.cat([class_token, last[:, shape.prefix :].mean(dim=1)], dim=1)
        return torch.cat([F.linear(features, tensors["head.weight"], tensors["head.bias"]), class_token], dim=1)

    def _block(self, index: int, x: Tensor) -> Tensor:
        path, (first, second), head = f"backbone.blocks.{index}", self.shape.epsilons[index], self.shape.head
        normed = self._norm(f"{path}.norm1", x, first)
        qkv = self._16(self._linear(f"{path}.attn.qkv", self._rounded(normed, normed.shape[-1])))
        query, key, value = qkv.unflatten(2, (3, -1, head)).permute(2, 0, 3, 1, 4)
        score = query @ key.transpose(2, 3)
        share = torch.exp2(score - score.amax(dim=-1, keepdim=True))
        attended = (self._16(share) @ value / share.sum(dim=-1, keepdim=True)).transpose(1, 2).flatten(2)
        attended = self._static_or_rounded(f"{path}.attn", attended, head)
        x = self._16(x + self._linear(f"{path}.attn.proj", attended))
        normed = self._norm(f"{path}.norm2", x, second)
        hidden = F.gelu(self._linear(f"{path}.mlp.fc1", self._rounded(normed, normed.shape[-1])))
        if self.quantized:
            hidden = hidden * self.tensors[f"{path}.mlp.multiplier"] + self.tensors[f"{path}.mlp.offset"]
        hidden = self._to_8_bits(hidden) if self.static and self.quantized else self._rounded(hidden, GROUP)
        return self._16(x + self._linear(f"{path}.mlp.fc2", hidden))

    def _norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        normal = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + epsilon)
        return normal * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.tensors[f"{name}.{part}"].float() for part in ("weight", "bias"))
        return F.linear(x, weight * self.tensors[f"{name}.scale"][:, None] if self.quantized else weight, bias)

    def _static_or_rounded(self, name: str, x: Tensor, group: int) -> Tensor:
        if self.static and self.quantized:
            return self._to_8_bits(x * self.tensors[f"{name}.multiplier"])
        return self._rounded(x, group)

    def _rounded(self, x: Tensor, group: int) -> Tensor:
        """Rounded to what 8 bits hold with a scale for each `group` of columns, or to what 16 do."""
        if not self.quantized:
            return self._16(x)
        groups = x.split(group, dim=-1)
        scales = [part.abs().amax(dim=-1, keepdim=True).clamp(min=TINY) / TOP[self.number] for part in groups]
        return torch.cat([self._to_8_bits(part / s) * s for part, s in zip(groups, scales, strict=True)], dim=-1)

    def _to_8_bits(self, x: Tensor) -> Tensor:
        if self.number == "int8":
            return x.round().clamp(-128, 127)
        return x.clamp(-TOP["float8"], TOP["float8"]).to(TYPES["float8"]).float()

    def _16(self, x: Tensor) -> Tensor:
        """Rounded to the type of what is not quantized."""
        return x.to(self.floats).float()
