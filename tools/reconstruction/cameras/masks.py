"""Which pixels of a clip may be used: no border, writing or highlights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from datasets.image_io import IMAGE_SUFFIXES, read_image
from datasets.sources import natural_order

DARK = 24  # of 255: brightest value that a pixel of the border reaches, noise of codecs included
GLARE = 235  # of 255: all three channels at or above this are a reflection of the light
EDGE = 12  # of 255 a pixel: an edge as strong as that of writing
STAYING = 0.3  # share of the texture; where more stays, the whole scene does
SEARCHED = 160  # pixels of the long side where the border is searched

_pool = torch.nn.functional.max_pool2d


def automatic_masks(frames: Tensor) -> Tensor:
    """Usable pixels (F, H, W) bool of frames (F, H, W, 3) uint8: tissue without highlights."""
    return (border_mask(frames) & ~overlay(frames))[None] & ~highlights(frames)


def border_mask(frames: Tensor) -> Tensor:
    """The picture inside its black border: (H, W) bool, from frames (F, H, W, 3) uint8.

    The border is what stays dark in all frames and hangs together with an edge of the frame.
    Writing beside the picture goes with it; of separate bright regions only the largest counts.
    """
    brightest = frames.amax((0, 3))
    height, width = brightest.shape
    step = max(1, -(-max(height, width) // SEARCHED))
    small = _pool(brightest[None, None].float(), step, ceil_mode=True)[0, 0]
    dark = small < DARK
    outside = _grown(_edges(dark), dark)
    picture = _largest(~outside)
    picture = ~_grown(_edges(~picture), ~picture) if picture.any() else picture
    if outside.any():
        rim = ~picture
        picture = ~_dilated(rim, 1)  # pixels beside the border are mixed with it
    full = picture.repeat_interleave(step, 0).repeat_interleave(step, 1)
    return full[:height, :width]


def highlights(frames: Tensor) -> Tensor:
    """Reflections of the light (F, H, W) bool, with a rim, of frames (F, H, W, 3) uint8.

    All channels must be bright: red tissue saturates the red one without any reflection.
    """
    bright = frames.amin(3) >= GLARE
    rim = max(1, round(max(frames.shape[1:3]) / 100))
    return torch.stack([_dilated(frame, rim) for frame in bright])


def overlay(frames: Tensor) -> Tensor:
    """Writing laid over the picture (H, W) bool: edges that stay where all others move.

    Its matches would say that the camera stands still. Where most edges stay, the scene itself
    does, and nothing is taken for writing.
    """
    grey = frames.float().mean(3)
    down = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]).abs()
    right = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]).abs()
    edges = torch.maximum(down, right) / 2
    least, usual = edges.amin(0), edges.mean(0)
    staying = least >= usual / 2
    textured = usual >= EDGE / 4
    found = torch.zeros(frames.shape[1:3], dtype=torch.bool)
    if (staying & textured).sum() > STAYING * textured.sum():
        return found
    found[1:-1, 1:-1] = staying & (least >= EDGE)
    return _dilated(found, max(2, round(max(found.shape) / 60)))


def read_user_masks(place: Path, frames: int, height: int, width: int) -> Tensor:
    """Masks that a user drew, white = ignore, as usable pixels (F, H, W) bool.

    `place` is one picture for all frames or a folder with one for each, in natural order.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: another number of masks, another size, or a mask that hides a whole frame.
    """
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such mask; give a picture or a folder of pictures")
    paths = [place]
    if place.is_dir():
        names = [entry.name for entry in place.iterdir() if _is_picture(entry)]
        paths = [place / name for name in natural_order(names)]
        if len(paths) != frames:
            raise ValueError(
                f"{place}: {len(paths)} masks for {frames} frames; give one for each frame, or "
                f"one picture for all"
            )
    hidden = []
    for path in paths:
        picture = read_image(path)
        if tuple(picture.shape[1:]) != (height, width):
            found = f"{picture.shape[1]} x {picture.shape[2]}"
            raise ValueError(f"{path}: the mask is {found}, the frames are {height} x {width}")
        hidden.append(picture.amax(0) > 127)
        if hidden[-1].all():
            raise ValueError(f"{path}: the mask hides the whole frame; white means ignore")
    usable = ~torch.stack(hidden)
    return usable if len(usable) == frames else usable.expand(frames, -1, -1).clone()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _dilated(region: Tensor, by: int) -> Tensor:
    grown = _pool(region[None, None].float(), 2 * by + 1, stride=1, padding=by)
    return grown[0, 0] > 0


def _edges(region: Tensor) -> Tensor:
    """The part of a region on the outermost rows and columns."""
    edge = torch.zeros_like(region)
    edge[[0, -1]] = region[[0, -1]]
    edge[:, [0, -1]] = region[:, [0, -1]]
    return edge


def _grown(seed: Tensor, region: Tensor) -> Tensor:
    """All of a region that hangs together with the seed (4-neighbours)."""
    while True:
        taller = _pool(seed[None, None].float(), (3, 1), stride=1, padding=(1, 0))
        wider = _pool(seed[None, None].float(), (1, 3), stride=1, padding=(0, 1))
        larger = (torch.maximum(taller, wider)[0, 0] > 0) & region
        if torch.equal(larger, seed):
            return seed
        seed = larger


def _largest(region: Tensor) -> Tensor:
    """The largest part of a region that hangs together."""
    best = torch.zeros_like(region)
    left = region.clone()
    while int(left.sum()) > int(best.sum()):
        seed = torch.zeros_like(region)
        row, column = torch.nonzero(left)[0].tolist()
        seed[row, column] = True
        part = _grown(seed, left)
        left &= ~part
        if part.sum() > best.sum():
            best = part
    return best
