"""Weak and strong views of a clip, the same change for all its frames.

Clips are plain uint8 tensors (T, 3, H, W): torchvision draws once a call, so all frames share the
draw. Each view is a pure function of its clip and a seed. It is drawn from torch's global
generator, which is put back afterwards: do not draw views in several threads of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as change

Strong = Literal["endoscopy", "fixmatch", "comatch", "compat"]
Change = Callable[[Tensor], Tensor]

MEAN, DEVIATION = 0.45, 0.225  # of pixels in [0, 1]; those of the published weights
GREY = round(255 * MEAN)  # zero once normalised
AREA = (0.5, 1.0)  # of a frame that a weak view shows
ERASED = (0.02, 0.2)  # of a view
MAGNITUDES = 31  # of RandAugment
PUBLISHED_SIZE = 224  # of frames; lengths of the published views are in its pixels


def normalise(clip: Tensor) -> Tensor:
    """uint8 0..255 of any shape -> float32, (x / 255 - 0.45) / 0.225."""
    return clip.to(torch.float32).div_(255).sub_(MEAN).div_(DEVIATION)


def plain_view(clip: Tensor, size: int, place: Literal["centre", "left"] = "centre") -> Tensor:
    """The view of a test: short side to `size`, and the square in the middle or at the left.

    "left" is the published rule, and the top of a picture that is higher than wide.

    (T, 3, H, W) uint8 -> (T, 3, size, size) uint8
    """
    small = _short_side(clip, size)
    height, width = small.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    if place == "left":
        top, left = 0, 0
    return small[..., top : top + size, left : left + size]


def weak_view(
    clip: Tensor, size: int, seed: int, kind: Literal["area", "compat"] = "area"
) -> Tensor:
    """A random part of a clip, mirrored or not: (T, 3, H, W) uint8 -> (T, 3, size, size) uint8.

    "area" shows half of the picture or more; "compat" is the published rule: short side to a
    random length of 256 to 320 per 224, and a random square.
    """
    with _drawn_from(seed):
        return _weak(clip, size, kind)


def strong_view(clip: Tensor, size: int, seed: int, kind: Strong = "endoscopy") -> Tensor:
    """A strongly changed view: (T, 3, H, W) uint8 -> (T, 3, size, size) uint8.

    With the seed of a weak view it is built upon that very view, else upon one of its own.

    endoscopy  any rotation and mirroring (there is no up), shift, scale, shear, brightness,
               contrast, a little saturation, blur or sharpness, one erased rectangle. Hue stays,
               for colour is a sign of disease.
    fixmatch   two random operations of RandAugment of a random strength, one erased rectangle
    comatch    the second strong view of CoMatch: a small part, colours, perhaps grey
    compat     the published one, with its flaws: the second operation undoes the first, for both
               work on the weak view, and the grey square jumps from frame to frame

    Raises:  ValueError for another kind
    """
    if kind not in get_args(Strong):
        raise ValueError(f"strong view: {kind!r} is not one of {', '.join(get_args(Strong))}")
    with _drawn_from(seed):
        if kind == "comatch":
            return _comatch(size)(clip)
        weak = _weak(clip, size, "compat" if kind == "compat" else "area")
        if kind == "compat":
            return _published(weak)
        return {"endoscopy": _endoscopy, "fixmatch": _fixmatch}[kind](weak)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: torch's own also resets GPUs
        yield


def _weak(clip: Tensor, size: int, kind: Literal["area", "compat"]) -> Tensor:
    if kind == "area":
        clip = v2.RandomResizedCrop(size, scale=AREA, antialias=True)(clip)
    else:
        longer = round(_uniform(256, 320) * size / PUBLISHED_SIZE)
        clip = v2.RandomCrop(size)(_short_side(clip, longer))
    return v2.RandomHorizontalFlip()(clip)


def _fixmatch(clip: Tensor) -> Tensor:
    strength = _one_of(MAGNITUDES - 1) + 1
    operations = v2.RandAugment(2, strength, MAGNITUDES, fill=_fill())
    return _erase(operations(clip))


def _endoscopy(clip: Tensor) -> Tensor:
    steps: list[Change] = [
        v2.RandomVerticalFlip(),
        v2.RandomAffine(
            180,
            translate=(0.1, 0.1),
            scale=(0.8, 1.25),
            shear=(-10, 10, -10, 10),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.15),
        v2.RandomChoice(
            [v2.GaussianBlur(5, (0.3, 1.5)), v2.RandomAdjustSharpness(2.0, 1.0), v2.Identity()]
        ),
    ]
    for step in steps:
        clip = step(clip)
    return _erase(clip)


def _comatch(size: int) -> Change:
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
        ]
    )


def _published(clip: Tensor) -> Tensor:
    """Two operations, each with a probability of a half, and a grey square where one was done."""
    # The published code had normalised floats here, and stretched each clip to bytes and back.
    low, high = int(clip.min()), int(clip.max())
    stretched = ((clip.float() - low) * (255 / max(high - low, 1))).to(torch.uint8)
    result = stretched
    for _ in range(2):
        operation = PUBLISHED[_one_of(len(PUBLISHED))]
        if _uniform(0, 1) < 0.5:
            result = _with_squares(operation(stretched))
    return (result.float() * ((high - low) / 255) + low).round_().to(torch.uint8)


def _with_squares(clip: Tensor) -> Tensor:
    """A grey square in each frame, at a place of its own, which the border may cut."""
    clip = clip.clone()
    half = max(1, round(clip.shape[-1] * 8 / PUBLISHED_SIZE))
    for frame in clip:
        row, column = (_one_of(length) for length in clip.shape[-2:])
        frame[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = 128
    return clip


def _geometric(
    *, angle: float = 0.0, x: float = 0, y: float = 0, shear: tuple[float, float] = (0, 0)
) -> Change:
    """Turn, shift (in pixels of 224) or shear by angles in degrees, this way or the other."""

    def apply(clip: Tensor) -> Tensor:
        sign = 1 if _uniform(0, 1) < 0.5 else -1
        pixels = sign * clip.shape[-1] / PUBLISHED_SIZE
        return change.affine(
            clip,
            angle=sign * angle,
            translate=[round(pixels * x), round(pixels * y)],
            scale=1.0,
            shear=[sign * each for each in shear],
            fill=[128.0] * 3,
        )

    return apply


def _blue_first(operation: Callable[[Tensor, float], Tensor]) -> Change:
    """At full strength, with the weights of red and blue swapped, as published."""
    return lambda clip: operation(clip.flip(-3), FULL).flip(-3)


FULL = 1.9  # factor of full strength; 1 would change nothing
SHEAR = 16.7  # degrees; 0.3 pixels a row
PUBLISHED: tuple[Change, ...] = (
    lambda clip: clip,
    lambda clip: clip,  # solarise, from the value 256 on: at full strength it does nothing
    change.autocontrast,
    change.equalize,
    lambda clip: change.adjust_brightness(clip, FULL),
    lambda clip: change.adjust_sharpness(clip, FULL),
    lambda clip: change.posterize(clip, 4),
    _blue_first(change.adjust_contrast),
    _blue_first(change.adjust_saturation),
    _geometric(angle=30),
    _geometric(x=10),
    _geometric(y=10),
    _geometric(shear=(SHEAR, 0)),
    _geometric(shear=(0, SHEAR)),
)


def _erase(clip: Tensor) -> Tensor:
    return v2.RandomErasing(p=1.0, scale=ERASED, value=GREY)(clip)


def _fill() -> list[float]:
    return [float(GREY)] * 3


def _short_side(clip: Tensor, length: int) -> Tensor:
    """Resize so that the short side has this length; bicubic would ring, so bilinear."""
    height, width = clip.shape[-2:]
    if min(height, width) == length:
        return clip
    scale = length / min(height, width)
    size = (max(length, round(height * scale)), max(length, round(width * scale)))
    return F.interpolate(clip, size=size, mode="bilinear", antialias=True)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _one_of(count: int) -> int:
    return int(torch.randint(count, ()))
