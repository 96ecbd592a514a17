"""Adaptive augmentation of what a discriminator sees (Karras et al., arXiv 2006.06676).

Each clip gets one random motion of the image plane and one random change of colours, the same for
all of its frames, as StyleGAN-V does (arXiv 2112.14683). Real and generated clips pass alike, so
that a generator does not learn the augmentation. Everything can be differentiated twice with
respect to the clips, as R1 needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.grid_sampling import grid_sample

Preset = Literal["bgc", "bgc_noro"]  # moves, geometry and colour; the same without rotations

# Decomposition low-pass of the wavelet Symlet-6, with a sum of 1.
SYMLET_6 = (
    *(0.010892349, 0.002468306, -0.083431602, -0.034161560, 0.347228944, 0.556946397),
    *(0.238952175, -0.051362481, -0.014891874, 0.031625278, 0.001249961, -0.005515934),
)
MARGIN = 6  # pixels that the filter reaches beyond an image, on each side


@dataclass(frozen=True)
class Draws:
    """The transform of each of B clips; 0 everywhere is the identity. Float64, in this order."""

    mirrored: Tensor  # (B,) 0 or 1
    quarter_turns: Tensor  # (B,) 0 to 3
    shift: Tensor  # (B, 2) right and down, in widths and heights, rounded to whole pixels
    scale: Tensor  # (B,) log2 of the magnification
    first_rotation: Tensor  # (B,) radians
    stretch: Tensor  # (B,) log2 of the magnification to the right, and of the shrinking down
    second_rotation: Tensor  # (B,) radians
    fine_shift: Tensor  # (B, 2) right and down, in widths and heights
    brightness: Tensor  # (B,) added
    contrast: Tensor  # (B,) log2 of the factor
    negative: Tensor  # (B,) 0 or 1: whether luma changes its sign
    hue: Tensor  # (B,) radians around the grey axis
    saturation: Tensor  # (B,) log2 of the factor


class Augmentation(nn.Module):
    """Random transforms of clips; each kind happens with the probability `strength`.

    `strength` is a buffer, saved with the network, that a controller moves; so are the sums
    that it decides by. Random numbers come from the generator of the clips' device.

    Letters:  B clips, F frames, H x W pixels
    Input and output:  (B, F, 3, H, W); float32 at least, whatever autocast says. Outside of an
                       image lies its reflection. Values are not clipped
    """

    strength: Tensor
    sign_sum: Tensor
    sign_count: Tensor
    clips: Tensor
    low_pass: Tensor

    def __init__(self, preset: Preset = "bgc") -> None:
        super().__init__()
        if preset not in get_args(Preset):
            raise ValueError(
                f"unknown augmentation {preset!r}; choose one of {', '.join(get_args(Preset))}"
            )
        self.rotates = preset == "bgc"
        for name in ("strength", "sign_sum", "sign_count", "clips"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("low_pass", torch.tensor(SYMLET_6), persistent=False)

    never_compiled = True  # its shapes depend on what is drawn

    def forward(self, videos: Tensor) -> Tensor:
        return self.apply_draws(videos, self.draw(len(videos)))

    @torch.no_grad()
    def record(self, logits: Tensor) -> None:
        """Keep in mind how many real clips (logits above 0) the discriminator took for real."""
        self.sign_sum += logits.sign().sum()
        self.sign_count += logits.numel()

    @torch.no_grad()
    def draw(self, count: int) -> Draws:
        """Random transforms of `count` clips, most of them the identity when `strength` is low."""
        device, strength = self.strength.device, self.strength.clamp(0, 1)
        # Of two chances to rotate, one is taken with a probability of `strength`.
        rotation_chance = 1 - (1 - strength).sqrt() if self.rotates else 0.0 * strength
        turning_chance = strength if self.rotates else 0.0 * strength

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, device=device, dtype=torch.float64)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, device=device, dtype=torch.float64)

        def sometimes(values: Tensor, chance: Tensor = strength) -> Tensor:
            happens = uniform() < chance
            return values * (happens[:, None] if values.ndim > 1 else happens)

        def angle() -> Tensor:
            return math.pi * (2 * uniform() - 1)

        return Draws(
            mirrored=sometimes((2 * uniform()).floor()),
            quarter_turns=sometimes((4 * uniform()).floor(), turning_chance),
            shift=sometimes((2 * uniform(2) - 1) / 8),
            scale=sometimes(0.2 * normal()),
            first_rotation=sometimes(angle(), rotation_chance),
            stretch=sometimes(0.2 * normal()),
            second_rotation=sometimes(angle(), rotation_chance),
            fine_shift=sometimes(normal(2) / 8),
            brightness=sometimes(0.2 * normal()),
            contrast=sometimes(0.5 * normal()),
            negative=sometimes((2 * uniform()).floor()),
            hue=sometimes(angle()),
            saturation=sometimes(normal()),
        )

    def apply_draws(self, videos: Tensor, draws: Draws) -> Tensor:
        """The clips transformed as drawn: (B, F, 3, H, W) -> (B, F, 3, H, W)."""
        with torch.autocast(videos.device.type, enabled=False):
            videos = videos.to(torch.promote_types(videos.dtype, torch.float32))
            height, width = videos.shape[-2:]
            places = source_places(draws, height, width)
            moved = move(videos.flatten(1, 2), places, self.low_pass).unflatten(1, (-1, 3))
            return recolour(moved, colour_matrix(draws))


def source_places(draws: Draws, height: int, width: int) -> Tensor:
    """Where each pixel comes from: (B, 3, 3) from (x, y, 1) of the result to that of the image.

    In pixels from the centre of the image, x to the right and y down.
    """
    size = draws.shift.new_tensor([width, height])
    steps = [
        _scaling(1 - 2 * draws.mirrored, torch.ones_like(draws.mirrored)),
        _rotation(draws.quarter_turns * (math.pi / 2)),
        _translation(-(draws.shift * size).round()),
        _scaling(2**-draws.scale, 2**-draws.scale),
        _rotation(draws.first_rotation),
        _scaling(2**-draws.stretch, 2**draws.stretch),
        _rotation(draws.second_rotation),
        _translation(-draws.fine_shift * size),
    ]
    return _product(steps)


def move(images: Tensor, places: Tensor, low_pass: Tensor) -> Tensor:
    """Images read at other places, without aliasing: at twice the resolution, then low-passed.

    Inputs:  images (B, C, H, W), places (B, 3, 3) as of `source_places`, the filter (12,)
    Output:  (B, C, H, W); images that stay in place, all of them, come back as they are
    """
    batch, channels, height, width = images.shape
    margins = _margins(places, height, width)
    if margins is None:
        return images
    fine = resample(F.pad(images, margins, mode="reflect"), low_pass, twice=True)
    canvas = (2 * (height + MARGIN), 2 * (width + MARGIN))
    theta = _between_grids(places, margins, canvas, fine.shape[2:])
    grid = F.affine_grid(theta, [batch, channels, *canvas], align_corners=False)
    moved = grid_sample(fine, grid.to(fine.dtype))
    return resample(moved[..., 1:-1, 1:-1], low_pass, twice=False)


def _between_grids(
    places: Tensor, margins: list[int], canvas: tuple[int, int], fine: Sequence[int]
) -> Tensor:
    """`places` for images with margins at twice the resolution: (B, 3, 3) -> (B, 2, 3).

    Of the result, the `canvas`, as of the image, both given by height and width, the outer edges
    are at -1 and 1.
    """
    left, right, top, bottom = margins
    centre = places.new_tensor([[(left - right) / 2, (top - bottom) / 2]])
    # The filter puts the two halves of a pixel a quarter of it further left and up.
    half = places.new_full((1, 2), 0.5)
    two, height, width = places.new_tensor([[2], [fine[0]], [fine[1]]])
    canvas_height, canvas_width = places.new_tensor([[canvas[0]], [canvas[1]]])
    steps = [
        _scaling(2 / width, 2 / height),
        _translation(-half),
        _scaling(two, two),
        _translation(centre),
        places,
        _scaling(1 / two, 1 / two),
        _translation(half),
        _scaling(canvas_width / 2, canvas_height / 2),
    ]
    return _product(steps)[:, :2]


def resample(images: Tensor, low_pass: Tensor, *, twice: bool) -> Tensor:
    """Twice the size, or half of it less 5 pixels, by a low-pass of 12 taps along each axis.

    (B, C, H, W) -> (B, C, 2H, 2W) or (B, C, H/2 - 5, W/2 - 5). The mean is kept.
    """
    channels = images.shape[1]
    for shape, along, stride in (([-1, 1], (5, 0), (2, 1)), ([1, -1], (0, 5), (1, 2))):
        taps = low_pass.to(images.dtype).view(shape).expand(channels, 1, -1, -1)
        if twice:
            images = F.conv_transpose2d(
                images, 2 * taps, stride=stride, padding=along, groups=channels
            )
        else:
            images = F.conv2d(images, taps, stride=stride, groups=channels)
    return images


def colour_matrix(draws: Draws) -> Tensor:
    """What becomes of colours: (B, 4, 4), from (r, g, b, 1) to the same."""
    identity = torch.eye(4, device=draws.hue.device, dtype=draws.hue.dtype)
    grey = torch.zeros_like(identity)  # projection onto the grey axis
    grey[:3, :3] = 1 / 3
    alpha = identity[3:].T @ identity[3:]
    coloured = identity - grey - alpha
    # The vector product with the grey axis: a quarter turn around it.
    turn = torch.zeros_like(identity)
    turn[0, 1] = turn[1, 2] = turn[2, 0] = -(3**-0.5)
    turn[1, 0] = turn[2, 1] = turn[0, 2] = 3**-0.5

    def times(factor: Tensor, matrix: Tensor) -> Tensor:
        return factor[:, None, None] * matrix

    shift = identity.repeat(len(draws.hue), 1, 1)
    shift[:, :3, 3] = draws.brightness[:, None]
    return _product(
        [
            grey + alpha + times(2**draws.saturation, coloured),
            grey + alpha + times(draws.hue.cos(), coloured) + times(draws.hue.sin(), turn),
            identity - times(2 * draws.negative, grey),
            alpha + times(2**draws.contrast, grey + coloured),
            shift,
        ]
    )


def recolour(videos: Tensor, matrices: Tensor) -> Tensor:
    """Every pixel's colour mapped by its clip's matrix: (B, F, 3, H, W), (B, 4, 4) -> the same."""
    matrices = matrices.to(videos.dtype)
    turned = torch.einsum("bij,bfjhw->bfihw", matrices[:, :3, :3], videos)
    return turned + matrices[:, None, :3, 3, None, None]


def _margins(places: Tensor, height: int, width: int) -> list[int] | None:
    """Pixels that are read beyond the left, right, top and bottom; None if nothing moves."""
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = places.new_tensor([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])
    reached = (places @ corners)[:, :2].transpose(0, 1).flatten(1)  # x and y of all corners
    beyond = torch.stack([-reached.amin(1), reached.amax(1)], dim=1)  # (x or y, before or after)
    largest = places.new_tensor([[width - 1], [height - 1]])
    beyond = (beyond + MARGIN - largest / 2).clamp(min=0).minimum(largest).ceil().flatten()
    moves = (places != torch.eye(3, device=places.device, dtype=places.dtype)).any()
    *margins, moving = torch.cat([beyond, moves[None]]).int().tolist()  # the device waits once
    return margins if moving else None


def _translation(offsets: Tensor) -> Tensor:
    matrices = torch.eye(3, device=offsets.device, dtype=offsets.dtype).repeat(len(offsets), 1, 1)
    matrices[:, :2, 2] = offsets
    return matrices


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _rotation(angle: Tensor) -> Tensor:
    matrices = _scaling(angle.cos(), angle.cos())
    matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices


def _product(matrices: list[Tensor]) -> Tensor:
    """Matrices (B or 1, n, n) multiplied from left to right."""
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    return product
