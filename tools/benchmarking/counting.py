"""Floating-point operations and bytes of a training step or a sampling step, from the shapes.

A multiplication and an addition count as two operations, as everywhere. Only products count
(linear layers, attention, convolutions): all else is less than 1 % of the operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.layers.embeddings import TIMESTEP_WAVES
from models.methods.endora import SIZES

PARAMETER_BYTES = 4
# Passes over all parameters that training cannot do without: forward, backward and gradient
# written; norm; AdamW reads gradient, weight and both moments and writes three; the average reads
# weight and average and writes one.
PARAMETER_PASSES = 2 + 1 + 1 + 7 + 3
# Values of each token that a block keeps for its backward pass, in widths D: its input, the
# modulated one, query, key and value, mixed values, projected ones; the second input, the
# modulated one, the hidden values before and after the GELU, and the MLP's output.
KEPT_WIDTHS = 1 + 1 + 3 + 1 + 1 + 1 + 1 + 4 + 4 + 1


@dataclass(frozen=True)
class Work:
    """Operations of one pass, and of a training step (forward and backward)."""

    forward: int = 0
    step: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.step + other.step)

    def __sub__(self, other: Work) -> Work:
        return Work(self.forward - other.forward, self.step - other.step)

    def __mul__(self, factor: int) -> Work:
        return Work(self.forward * factor, self.step * factor)


def product(rows: int, inner: int, columns: int, *, first: bool = False) -> Work:
    """(rows, inner) times (inner, columns). Backward takes two such products, or one where the
    layer is the `first` and its input needs no gradient."""
    operations = 2 * rows * inner * columns
    return Work(operations, operations * (2 if first else 3))


@dataclass(frozen=True)
class ItemShape:
    """One item: F frames and I extra images of N tokens, in a network of depth L and width D."""

    frames: int = 16
    images: int = 8
    latent: int = 16  # cells along a side
    channels: int = 4
    patch: int = 2
    depth: int = 12
    width: int = 384
    prior_layers: int = 0  # maps (E, h, w) that guide, 0 without guidance
    prior_width: int = 384
    prior_cells: int = 256  # h * w

    @classmethod
    def of_size(cls, size: str, **changes: int) -> ItemShape:
        """That of a preset (S, B, L or XL) with patches of 2."""
        depth, width, _ = SIZES[size]
        return cls(**({"depth": depth, "width": width} | changes))

    @property
    def total(self) -> int:
        """F + I"""
        return self.frames + self.images

    @property
    def tokens(self) -> int:
        """N, of one frame"""
        return (self.latent // self.patch) ** 2

    @property
    def parameters(self) -> int:
        """Learned values of the transformer and its guidance, without position tables."""
        d, cell = self.width, self.patch**2 * self.channels
        block = 18 * d * d + 15 * d  # attention 4, MLP 8, modulation 6, with their biases
        ends = cell * d + d + d * 2 * cell + 2 * cell + 2 * d * d + 2 * d
        timestep = TIMESTEP_WAVES * d + d + d * d + d
        kernel = self.prior_cells // self.tokens if self.prior_layers else 0
        return self.depth * block + ends + timestep + self.prior_width * kernel * d


def item_work(
    shape: ItemShape, *, repeated_modulation: bool = False, full_projection: bool = False
) -> Work:
    """Operations of the denoiser on one item, guidance included.

    `repeated_modulation` counts the modulation of every frame in spatial blocks and of every token
    position in temporal ones, `full_projection` the prior's projection to all channels, as the
    published code computes them.
    """
    d, n = shape.width, shape.tokens
    spatial = product(shape.total * n, d, 12 * d) + attention(shape.total, n, d)
    temporal = product(shape.frames * n, d, 12 * d) + attention(n, shape.frames, d)
    rows = (shape.total, n, shape.total) if repeated_modulation else (1, 1, 1)
    pair = spatial + temporal + product(rows[0] + rows[1], d, 6 * d)
    values = shape.patch**2 * shape.channels
    ends = (
        product(shape.total * n, values, d, first=True)
        + product(1, TIMESTEP_WAVES, d, first=True)
        + product(1, d, d)
        + product(rows[2], d, 2 * d)
        + product(shape.total * n, d, 2 * values)
    )
    return pair * (shape.depth // 2) + ends + projection(shape, d if full_projection else 1)


def attention(groups: int, tokens: int, width: int) -> Work:
    """Query times key and weights times value in every group; backward is twice as much."""
    forward = groups * 4 * tokens * tokens * width
    return Work(forward, 3 * forward)


def projection(shape: ItemShape, channels: int) -> Work:
    """The prior's maps to `channels` values of every token; the maps need no gradient."""
    forward = 2 * shape.total * shape.prior_cells * shape.prior_width * channels
    return Work(forward * shape.prior_layers, 2 * forward * shape.prior_layers)


def step_bytes(shape: ItemShape, items: int, *, bf16: bool) -> int:
    """The least that a training step moves through memory: every pass over the parameters, and
    what the blocks keep for their backward pass, written once and read once."""
    tokens = (shape.total + shape.frames) * shape.tokens * (shape.depth // 2) * items
    kept = tokens * KEPT_WIDTHS * shape.width * (2 if bf16 else 4)
    return PARAMETER_PASSES * PARAMETER_BYTES * shape.parameters + 2 * kept


def attention_bytes(shape: ItemShape, heads: int) -> int:
    """What unfused attention moves beyond fused one in a training step on one item, in fp32.

    The matrix of all weights is written and read by the product, scaled, made a softmax of and
    multiplied with the values (6 passes); backward takes about as many again, twice.
    """
    spatial = shape.total * shape.tokens**2
    temporal = shape.tokens * shape.frames**2
    return 4 * 18 * heads * (spatial + temporal) * (shape.depth // 2)
