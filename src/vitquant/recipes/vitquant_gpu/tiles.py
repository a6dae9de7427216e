"""The tiles that kernels work on, by family of GPU: nothing is tuned where the model runs.

A ladder has steps from large tiles to small ones. The first step counts that has enough tiles for each multiprocessor,
by its own measure: large tiles read less from memory, small ones keep all multiprocessors busy when there is little to
do. Hopper's ladders are of a sweep over 25 tiles for ViT-S and ViT-B at batch 1, 8, 32 and 128 on an H100: they choose
there what was the fastest, or within a few percent of it. Those of GPUs without TMA go by the limits of registers and
shared memory; they have not been measured.
"""

from dataclasses import dataclass

from vitquant.recipes.vitquant_gpu.launch import Gpu

FILLED = 1.4  # programs for each multiprocessor that keep it busy
EARLY_ROWS = 1024  # of tokens: below, kernels are so short that starting one takes a part of its time


@dataclass(frozen=True)
class Tile:
    """How one linear layer is cut."""

    rows: int
    columns: int
    depth: int
    """Of what is multiplied at a time."""
    warps: int
    stages: int
    """Of loads in flight."""
    resident: int = 0
    """Programs for each multiprocessor that share all tiles, so that one tile's end hides in the next one's loads; 0:
    each tile has its own program."""
    halves: int = 1
    """Parts in which a tile's columns go through what follows the product; 2 need fewer registers."""


@dataclass(frozen=True)
class AttentionTile:
    """How attention is cut."""

    queries: int
    keys: int
    repeat: int
    """Tiles of queries, one after another, for which a program keeps its keys and values."""
    warps: int
    stages: int


Ladder = tuple[tuple[float, Tile], ...]
"""Steps: tiles for each multiprocessor that are enough, and the tile; the last step takes what is left."""

# by GPU with TMA or without, and layer; "-scaled" where it takes or makes scales at run time
LADDERS: dict[tuple[bool, str], Ladder] = {
    (True, "qkv"): (
        (8, Tile(128, 128, 128, 4, 3, 2, 2)), (FILLED, Tile(128, 64, 128, 4, 3)), (0.65, Tile(64, 128, 128, 4, 4)),
        (0, Tile(64, 32, 128, 4, 4)),
    ),
    (True, "proj"): (
        (8, Tile(128, 128, 128, 4, 3)), (FILLED, Tile(128, 64, 128, 4, 3)), (2.5, Tile(64, 32, 128, 4, 4)),
        (0, Tile(64, 32, 256, 4, 4)),
    ),
    (True, "fc1"): (
        (FILLED, Tile(128, 128, 128, 4, 3, 2)), (FILLED, Tile(128, 64, 128, 4, 3)), (0.85, Tile(64, 128, 128, 4, 4)),
        (0, Tile(64, 64, 128, 4, 4)),
    ),
    (True, "fc2"): (
        (2.2, Tile(128, 128, 128, 4, 3)), (2.2, Tile(128, 64, 128, 4, 3)), (FILLED, Tile(64, 128, 128, 4, 4)),
        (0.4, Tile(64, 64, 256, 4, 3)), (0, Tile(64, 32, 256, 4, 4)),
    ),
    (True, "proj-scaled"): ((FILLED, Tile(128, 64, 64, 4, 4)), (0, Tile(64, 32, 64, 4, 4))),
    (True, "fc1-scaled"): ((FILLED, Tile(128, 128, 128, 4, 3, 2)), (0, Tile(64, 128, 128, 4, 4))),
    (True, "fc2-scaled"): (
        (FILLED, Tile(128, 64, 128, 4, 3)), (FILLED, Tile(64, 64, 128, 4, 4)), (0, Tile(64, 32, 128, 4, 5)),
    ),
    (True, "wide-16"): (
        (FILLED, Tile(128, 256, 64, 8, 4, 1, 2)), (FILLED, Tile(128, 128, 64, 4, 4, 2, 2)),
        (FILLED, Tile(128, 64, 64, 4, 4)), (0, Tile(64, 64, 128, 4, 4)),
    ),
    (True, "residual-16"): (
        (5, Tile(128, 256, 64, 8, 3, 1, 2)), (0.75, Tile(128, 128, 64, 8, 4, 2)), (0.7, Tile(128, 64, 64, 4, 4)),
        (0.4, Tile(64, 64, 128, 4, 4)), (0, Tile(64, 32, 128, 4, 4)),
    ),
    (True, "patches"): (
        (FILLED, Tile(128, 128, 64, 8, 4)), (FILLED, Tile(64, 128, 64, 4, 5)), (0, Tile(64, 64, 64, 4, 6)),
    ),
    (False, "qkv"): (
        (FILLED, Tile(128, 128, 64, 8, 3)), (FILLED, Tile(128, 64, 64, 4, 3)), (FILLED, Tile(64, 64, 64, 4, 3)),
        (0, Tile(32, 64, 64, 4, 4)),
    ),
    (False, "proj"): (
        (FILLED, Tile(128, 64, 64, 4, 3)), (FILLED, Tile(64, 64, 64, 4, 3)), (0, Tile(32, 32, 128, 4, 3)),
    ),
    (False, "fc1"): (
        (FILLED, Tile(128, 128, 64, 8, 3)), (FILLED, Tile(128, 64, 64, 4, 3)), (FILLED, Tile(64, 64, 64, 4, 3)),
        (0, Tile(32, 64, 64, 4, 4)),
    ),
    (False, "fc2"): (
        (FILLED, Tile(128, 64, 64, 4, 3)), (FILLED, Tile(64, 64, 64, 4, 3)), (0, Tile(32, 32, 128, 4, 3)),
    ),
    (False, "proj-scaled"): ((FILLED, Tile(64, 64, 64, 4, 3)), (0, Tile(32, 32, 64, 4, 4))),
    (False, "fc1-scaled"): ((FILLED, Tile(128, 128, 64, 8, 3)), (0, Tile(32, 128, 64, 4, 3))),
    (False, "fc2-scaled"): ((FILLED, Tile(64, 64, 128, 4, 3)), (0, Tile(32, 32, 128, 4, 3))),
    (False, "wide-16"): (
        (FILLED, Tile(128, 128, 32, 8, 3)), (FILLED, Tile(128, 64, 32, 4, 3)), (0, Tile(64, 64, 32, 4, 4)),
    ),
    (False, "residual-16"): (
        (FILLED, Tile(128, 64, 32, 4, 3)), (FILLED, Tile(64, 64, 32, 4, 4)), (0, Tile(64, 32, 64, 4, 3)),
    ),
    (False, "patches"): ((FILLED, Tile(128, 64, 32, 4, 3)), (0, Tile(64, 64, 32, 4, 4))),
}  # fmt: skip


def choose(gpu: Gpu, layer: str, rows: int, width: int) -> Tile:
    """The tile of a linear layer with so many rows and columns of results."""

    def enough(least: float, tile: Tile) -> bool:
        return -(-rows // tile.rows) * -(-width // tile.columns) >= least * gpu.processors

    return next(tile for least, tile in LADDERS[gpu.tma, layer] if enough(least, tile))


def choose_attention(gpu: Gpu, heads: int, tokens: int) -> AttentionTile:
    """That of attention with so many heads in all images together."""
    if gpu.tma and 192 <= tokens < 320 and heads >= 4 * gpu.processors:  # noqa: PLR2004
        return AttentionTile(64, 256, -(-tokens // 64), 4, 2)  # keys stay where they are, for all queries
    if gpu.tma and tokens > 1024:  # noqa: PLR2004
        return AttentionTile(128, 64, 1, 4, 3)
    return AttentionTile(64, 128, 1, 4, 2) if gpu.tma and tokens % 128 == 1 else AttentionTile(64, 64, 1, 4, 3)


def choose_parts(gpu: Gpu, images: int) -> int:
    """Parts in which the patches of each image are summed."""
    return 8 if images * 8 >= FILLED * gpu.processors else 32


def choose_rows(gpu: Gpu, rows: int, width: int) -> tuple[int, int]:
    """Rows and warps of a program of LayerNorm."""
    for several, warps in ((8, 2 if width <= 512 else 4), (4, 2)):  # noqa: PLR2004
        if rows >= 8 * several * gpu.processors:
            return several, warps
    return (2, 2) if rows >= 2 * gpu.processors else (1, 2)


def early(gpu: Gpu, rows: int) -> bool:
    """Whether kernels start before the one before them has ended."""
    return gpu.tma and rows <= EARLY_ROWS
