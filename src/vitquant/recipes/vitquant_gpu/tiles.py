"""The tiles that kernels work on, by family of GPU: nothing is tuned where the model runs.

A ladder has tiles from large to small. The rule takes the first with FILLED tiles or more for each multiprocessor, else
the last: large tiles read less from memory, small ones keep all multiprocessors busy when there is little to do. On an
H100 that chooses, for ViT-S and ViT-B at batch 1, 8, 32 and 128, nearly always what a sweep over 30 tiles had found best.
The ladders of GPUs without TMA are by the limits of their registers and shared memory, and were not measured.
"""

from dataclasses import dataclass

from vitquant.recipes.vitquant_gpu.launch import Gpu

FILLED = 1.4
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
    alone: bool = False
    """The last query, one more than whole tiles, goes by vector arithmetic."""


# by GPU with TMA or without, and layer; "-scaled" where it takes or makes scales at run time
LADDERS: dict[tuple[bool, str], tuple[Tile, ...]] = {
    (True, "qkv"): (Tile(128, 128, 128, 4, 3, 2, 2), Tile(128, 64, 128, 4, 3), Tile(64, 64, 128, 4, 4)),
    (True, "proj"): (
        Tile(128, 128, 128, 4, 3), Tile(128, 64, 128, 4, 3), Tile(64, 64, 128, 4, 4), Tile(64, 32, 256, 4, 4),
    ),
    (True, "fc1"): (Tile(128, 128, 128, 4, 3, 2), Tile(128, 64, 128, 4, 3), Tile(64, 64, 128, 4, 4)),
    (True, "fc2"): (
        Tile(128, 128, 128, 4, 3), Tile(128, 64, 128, 4, 3), Tile(64, 64, 256, 4, 3), Tile(64, 32, 256, 4, 4),
    ),
    (True, "proj-scaled"): (Tile(128, 64, 64, 4, 4), Tile(64, 32, 64, 4, 6)),
    (True, "fc1-scaled"): (Tile(128, 128, 128, 4, 3, 2), Tile(64, 128, 128, 4, 4)),
    (True, "fc2-scaled"): (Tile(128, 64, 128, 4, 3), Tile(64, 64, 128, 4, 4), Tile(64, 32, 128, 4, 5)),
    (True, "bf16-wide"): (
        Tile(128, 256, 64, 8, 4, 1, 2), Tile(128, 128, 64, 4, 4, 2, 2), Tile(128, 64, 64, 4, 4), Tile(64, 64, 128, 4, 4),
    ),
    (True, "bf16-residual"): (
        Tile(128, 128, 64, 8, 4, 2), Tile(128, 64, 64, 4, 4), Tile(64, 64, 128, 4, 4), Tile(64, 32, 128, 4, 4),
    ),
    (True, "patches"): (Tile(128, 128, 64, 4, 4), Tile(64, 128, 64, 4, 5), Tile(64, 64, 64, 4, 6)),
    (False, "qkv"): (Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 3), Tile(64, 64, 64, 4, 3), Tile(32, 64, 64, 4, 4)),
    (False, "proj"): (Tile(128, 64, 64, 4, 3), Tile(64, 64, 64, 4, 3), Tile(64, 32, 128, 4, 3), Tile(32, 32, 128, 4, 3)),
    (False, "fc1"): (Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 3), Tile(64, 64, 64, 4, 3), Tile(32, 64, 64, 4, 4)),
    (False, "fc2"): (Tile(128, 64, 64, 4, 3), Tile(64, 64, 64, 4, 3), Tile(64, 32, 128, 4, 3), Tile(32, 32, 128, 4, 3)),
    (False, "proj-scaled"): (Tile(64, 64, 64, 4, 3), Tile(64, 32, 64, 4, 3), Tile(32, 32, 64, 4, 4)),
    (False, "fc1-scaled"): (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3), Tile(32, 128, 64, 4, 3)),
    (False, "fc2-scaled"): (Tile(64, 64, 128, 4, 3), Tile(64, 32, 128, 4, 3), Tile(32, 32, 128, 4, 3)),
    (False, "bf16-wide"): (Tile(128, 128, 32, 8, 3), Tile(128, 64, 32, 4, 3), Tile(64, 64, 32, 4, 4)),
    (False, "bf16-residual"): (Tile(128, 64, 32, 4, 3), Tile(64, 64, 32, 4, 4), Tile(64, 32, 64, 4, 3)),
    (False, "patches"): (Tile(128, 64, 32, 4, 3), Tile(64, 64, 32, 4, 4)),
}  # fmt: skip


def choose(gpu: Gpu, layer: str, rows: int, width: int) -> Tile:
    """The tile of a linear layer with so many rows and columns of results."""
    ladder = LADDERS[gpu.tma, layer]
    enough = (t for t in ladder if -(-rows // t.rows) * -(-width // t.columns) >= FILLED * gpu.processors)
    return next(enough, ladder[-1])


def choose_attention(gpu: Gpu, heads: int, tokens: int) -> AttentionTile:
    """That of attention with so many heads in all images together: what needs the fewest tiles of queries in a row.

    Two programs fit into a multiprocessor; keys and values take as long to load as about one tile of queries.
    """
    if tokens >= 512:  # noqa: PLR2004
        return AttentionTile(128, 128, 1, 8, 2) if gpu.tma else AttentionTile(64, 64, 1, 4, 2)
    keys = (256 if gpu.tma else 128) if tokens >= 256 else 128 if tokens >= 128 else 64  # noqa: PLR2004
    alone = tokens % 64 == 1 and tokens // keys == 1 and tokens % keys == 1

    def cost(candidate: AttentionTile) -> float:
        tiles = tokens // 64 if candidate.alone else -(-tokens // 64)
        waves = -(-heads * -(-tiles // candidate.repeat) // (2 * gpu.processors))
        return waves * (candidate.repeat + (1.7 if candidate.alone else 1.0))

    candidates = [
        AttentionTile(64, keys, repeat, 4, 2, alone=last)
        for last in ((False, True) if alone else (False,))
        for repeat in range(-(-tokens // 64), 0, -1)
    ]
    return min(candidates, key=cost)


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
