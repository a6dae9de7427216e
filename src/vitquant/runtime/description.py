"""What an artifact of vitquant-int8 says of its network: the content of network.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vitquant import files
from vitquant.errors import MAKE_AGAIN, VitquantError

MEND = MAKE_AGAIN
FILE = "network.json"  # in an artifact, beside its tensors
LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu")  # in the order of native/activations.h
POOLINGS = ("class and mean", "token", "mean", "attention")  # in the order of native/pooling.h
MAY_BE_NONE = ("classes", "prefix", "skipped", "rotations", "distances", "pool_heads", "pool_hidden")
CHOICES = {"activation": ACTIVATIONS, "pool_activation": ACTIVATIONS, "pooling": POOLINGS}


@dataclass(frozen=True)
class Description:
    """All that the tensors' shapes follow from, and what they do not tell."""

    side: int
    """Of the image, pixels."""
    channels: int
    patch: int
    """Side of a patch, pixels."""
    width: int
    """Of a token."""
    blocks: int
    heads: int
    depth: int
    """Of a head."""
    hidden: int
    """Width of fc2's inputs."""
    prefix: int
    """Tokens before the patches': the class token, and registers."""
    classes: int
    """None where it gives what the head would read."""
    epsilon: float
    """Of every LayerNorm."""
    norm_before: bool
    """Whether there is a LayerNorm before all blocks."""
    norm_after: bool = True
    """Whether there is one over the tokens after all blocks."""
    norm_pooled: bool = False
    """Whether there is one over what has been pooled."""
    norm_heads: bool = False
    """Whether there is one over each head's queries and keys."""
    norm_attention: bool = False
    """Whether there is one before proj."""
    norm_hidden: bool = False
    """Whether there is one before fc2."""
    rotations: int = 0
    """Tables of rotary embeddings: none, one, or one for each head of each block."""
    distances: int = 0
    """Rows of a block's table of biases by relative position, which logits get; 0 where there is none."""
    activation: str = "gelu"
    """Between fc1 and fc2, of ACTIVATIONS."""
    gated: bool = False
    """Whether the activation function of fc1's first half of outputs is multiplied by the other half."""
    pooling: str = "class and mean"
    """What the head reads, of POOLINGS: the first token and the others' mean, either, or attention pooling."""
    skipped: int = -1
    """Tokens that mean and attention pooling leave out, before the others; -1 for the prefix."""
    averaged: int = -1
    """Tokens after those that they take; -1 for all."""
    pool_heads: int = 0
    """Of attention pooling."""
    pool_hidden: int = 0
    """Of its MLP."""
    pool_activation: str = "gelu"
    """Likewise."""

    @property
    def patches(self) -> int:
        """Tokens that are patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Of an image."""
        return self.prefix + self.patches

    @property
    def first_pooled(self) -> int:
        """The first token of those that mean and attention pooling take."""
        return self.prefix if self.skipped < 0 else self.skipped

    @property
    def pooled(self) -> int:
        """Number of those."""
        return self.tokens - self.first_pooled if self.averaged < 0 else self.averaged

    @property
    def features(self) -> int:
        """Width of what the head reads."""
        return self.width * (2 if self.pooling == "class and mean" else 1)

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Of each tensor the type and the shape."""
        width, attended = self.width, self.heads * self.depth
        floats: dict[str, tuple[int, ...]] = {
            "backbone.patch_embed.proj.weight": (width, self.channels, self.patch, self.patch),
            "backbone.tokens": (1, self.tokens, width),
            "head.weight": (self.classes, self.features),
            "head.bias": (self.classes,),
        }
        if self.rotations:
            floats["backbone.rotation"] = (self.rotations, self.patches, 2, self.depth // 2)
        others = {"backbone.distances": ("int32", (self.tokens, self.tokens))} if self.distances else {}
        wholes = {"norm_pre": self.norm_before, "norm": self.norm_after, "fc_norm": self.norm_pooled}
        norms = {f"backbone.{name}": width for name, is_there in wholes.items() if is_there}
        integers: dict[str, tuple[int, ...]] = {}
        for block in (f"backbone.blocks.{index}" for index in range(self.blocks)):
            norms |= {f"{block}.norm1": width, f"{block}.norm2": width}
            if self.norm_heads:
                norms |= {f"{block}.attn.q_norm": self.depth, f"{block}.attn.k_norm": self.depth}
            if self.distances:
                floats[f"{block}.attn.bias"] = (self.distances, self.heads)
            if self.norm_attention:
                norms[f"{block}.attn.norm"] = attended
            if self.norm_hidden:
                norms[f"{block}.mlp.norm"] = self.hidden
            floats |= {f"{block}.mlp.centre": (self.hidden,), f"{block}.mlp.inverse": (self.hidden,)}
            first = self.hidden * (2 if self.gated else 1)
            layers = ((3 * attended, width), (width, attended), (first, width), (width, self.hidden))
            for name, shape in zip(LINEAR, layers, strict=True):
                integers[f"{block}.{name}.weight"] = shape
                floats |= {f"{block}.{name}.scale": shape[:1], f"{block}.{name}.bias": shape[:1]}
        if self.pooling == "attention":
            floats |= {"pool.query": (self.pool_heads, width)}
            dense = {"value": (width, width), "proj": (width, width)}
            if self.pool_hidden:
                dense |= {"fc1": (self.pool_hidden, width), "fc2": (width, self.pool_hidden)}
                norms["pool.norm"] = width
            for name, shape in dense.items():
                floats |= {f"pool.{name}.weight": shape, f"pool.{name}.bias": shape[:1]}
        floats |= {f"{norm}.{part}": (own,) for norm, own in norms.items() for part in ("weight", "bias")}
        typed: dict[str, dict[str, tuple[int, ...]]] = {"float32": floats, "int8": integers}
        return others | {name: (kind, shape) for kind, shapes in typed.items() for name, shape in shapes.items()}


def write(directory: Path, description: Description) -> None:
    """Write network.json."""
    files.write_json(directory / FILE, dataclasses.asdict(description))


def read(directory: Path) -> Description:
    """Read network.json.

    Raises:
        VitquantError: it is missing, as in artifacts of before, or is not one.
    """
    file = directory / FILE
    if not file.is_file():
        raise VitquantError(f"{file} is missing: {MEND}")
    content = files.read_json(file, MEND)
    fields = {field.name: field for field in dataclasses.fields(Description)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if not isinstance(content, dict) or not needed <= content.keys() <= fields.keys():
        raise VitquantError(f"{file} does not hold {', '.join(fields)}, and these alone: {MEND}")
    for name, value in content.items():
        oddity = _oddity(name, fields[name].type, value)
        if oddity:
            raise VitquantError(f"{file}: {name} is {str(value)[:50]}, {oddity}: {MEND}")
    description = Description(**content)
    if description.side % description.patch:
        raise VitquantError(f"{file}: {description.side} pixels do not divide into patches: {MEND}")
    oddity = _inconsistent(description)
    if oddity:
        raise VitquantError(f"{file}: {oddity}: {MEND}")
    return description


def _oddity(name: str, kind: object, value: object) -> str:
    """What a field cannot be; empty where it can."""
    if name in CHOICES:
        return "" if value in CHOICES[name] else f"not one of {', '.join(CHOICES[name])}"
    if type(value) is not kind:
        return "not a positive number or a truth value"
    if isinstance(value, bool):
        return ""
    least = -1 if name in ("skipped", "averaged") else 0 if name in MAY_BE_NONE else 1 if isinstance(value, int) else 0
    fits = isinstance(value, int | float) and least <= value < 2**31 and (value > 0 or isinstance(value, int))
    return "" if fits else "not a positive number or a truth value"


def _inconsistent(its: Description) -> str:
    """What in a description contradicts the rest of it: the native code would read beyond its arrays."""
    if its.rotations not in (0, 1, its.blocks * its.heads):
        return f"rotations is {its.rotations}, neither 0, nor 1, nor one for each head"
    if its.rotations and its.depth % 2:
        return "heads of an odd depth do not rotate"
    if its.skipped > its.prefix:
        return f"skipped is {its.skipped}, more than the prefix"
    if not 0 < its.pooled <= its.tokens - its.first_pooled:
        return f"averaged is {its.averaged}, and there are {its.tokens - its.first_pooled} tokens"
    if its.pooling == "attention" and (not its.pool_heads or its.width % its.pool_heads):
        return f"pool_heads is {its.pool_heads}, which does not divide the width"
    return ""
