"""Pictures for people: depth in colours with a scale, videos side by side, a sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pictures = NDArray[np.uint8]  # (F, H, W, 3)
Depths = NDArray[np.float32]  # (F, H, W)

SHOWN = 256  # pixels of the shorter side that small pictures are enlarged to
GAP, TITLE, LETTERS = 6, 24, 14  # pixels
PAPER, INK, UNKNOWN = (16, 15, 15), (236, 231, 226), 28
BAR, BAR_ROOM = 14, 62  # pixels: of the scale of depth, and of it with its numbers


def depth_range(depths: Depths, masks: NDArray[np.bool_]) -> tuple[float, float]:
    """The 2nd and 98th percentile of known depth over a clip: the ends of its colours."""
    known = depths[masks & (depths > 0)]
    if not len(known):
        return 0.0, 1.0
    low, high = (float(each) for each in np.percentile(known, [2, 98]))
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def coloured_depth(depths: Depths, low: float, high: float) -> Pictures:
    """Depth in the colours of turbo, near is warm; dark grey where unknown (0)."""
    place = 1 - np.clip((depths - low) / (high - low), 0, 1)
    colours = _turbo()[np.round(place * 255).astype(np.int64)]
    return np.where((depths > 0)[..., None], colours, np.uint8(UNKNOWN))


def enlarged(pictures: Pictures, least: int = SHOWN) -> Pictures:
    """Pictures whose shorter side is at least `least` pixels, by a whole factor."""
    factor = max(1, -(-least // min(pictures.shape[1:3])))
    if factor == 1:
        return pictures
    height, width = pictures.shape[1] * factor, pictures.shape[2] * factor
    return np.stack(
        [
            np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC))
            for p in pictures
        ]
    )


def with_scale(pictures: Pictures, low: float, high: float) -> Pictures:
    """Pictures with a bar of the colours of depth at the right, its ends and middle named."""
    height = pictures.shape[1]
    strip = Image.new("RGB", (BAR_ROOM, height), PAPER)
    shades = _turbo()[np.linspace(255, 0, max(height - 2 * LETTERS, 2)).round().astype(int)]
    bar = np.repeat(shades[:, None], BAR, axis=1)
    strip.paste(Image.fromarray(bar), (GAP, LETTERS))
    draw = ImageDraw.Draw(strip)
    top, bottom, left = LETTERS, height - LETTERS, GAP + BAR + 4
    places = ((top, low, "lt"), ((top + bottom) // 2, (low + high) / 2, "lm"), (bottom, high, "lb"))
    for row, value, anchor in places:
        draw.text((left, row), f"{value:.3g}", INK, _font(11), anchor=anchor)
    column = np.broadcast_to(np.asarray(strip), (len(pictures), height, BAR_ROOM, 3))
    return np.concatenate([pictures, column], axis=2)


def side_by_side(columns: Mapping[str, Pictures]) -> Pictures:
    """Videos of one height beside each other, each under its title."""
    parts = []
    for title, pictures in columns.items():
        height, width = pictures.shape[1:3]
        head = Image.new("RGB", (width, TITLE), PAPER)
        ImageDraw.Draw(head).text((2, TITLE // 2), title, INK, _font(LETTERS), anchor="lm")
        strip = np.broadcast_to(np.asarray(head), (len(pictures), TITLE, width, 3))
        parts.append(np.concatenate([strip, pictures], axis=1))
        parts.append(np.full((len(pictures), TITLE + height, GAP, 3), PAPER, np.uint8))
    return evened(np.concatenate(parts[:-1], axis=2))


def sheet(rows: Mapping[str, Pictures], names: Sequence[str]) -> Pictures:
    """One picture (H, W, 3): a row of frames for each title, and a name above each column."""
    height, width = next(iter(rows.values())).shape[1:3]
    left = 8 + max(int(_font(LETTERS).getlength(title)) for title in rows)
    count = len(names)
    whole = Image.new(
        "RGB", (left + count * (width + GAP), TITLE + len(rows) * (height + GAP)), PAPER
    )
    draw = ImageDraw.Draw(whole)
    for column, name in enumerate(names):
        draw.text((left + column * (width + GAP), TITLE // 2), name, INK, _font(12), anchor="lm")
    for row, (title, pictures) in enumerate(rows.items()):
        top = TITLE + row * (height + GAP)
        draw.text((4, top + height // 2), title, INK, _font(LETTERS), anchor="lm")
        for column, picture in enumerate(pictures):
            whole.paste(Image.fromarray(picture), (left + column * (width + GAP), top))
    return np.asarray(whole)


def evened(pictures: Pictures) -> Pictures:
    """Pictures with a last row or column more where a side is odd, as H.264 needs."""
    height, width = pictures.shape[1:3]
    edges = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return np.pad(pictures, edges, mode="edge") if height % 2 or width % 2 else pictures


@cache
def _turbo() -> NDArray[np.uint8]:
    from matplotlib import colormaps

    return np.round(colormaps["turbo"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]  # its own, with FreeType
