"""What a video distance has to notice: five ways to spoil clips, each in growing levels.

An extractor is fit for its purpose when the distance to clean clips grows with every level:
`response` measures that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.metrics.features import FeatureExtractor
from tools.metrics.frechet import Summary, distance

Corruption = Callable[[Tensor, float], Tensor]
BATCH = 8  # clips of one forward pass


def noise(clips: Tensor, level: float) -> Tensor:
    """Add Gaussian noise of `level` grey levels (of 255)."""
    values = torch.randn(clips.shape, generator=_generator()) * level + clips
    return _as_pixels(values)


def blur(clips: Tensor, level: float) -> Tensor:
    """Gaussian blur; `level` is its deviation in 48ths of the frame's width."""
    deviation = level * clips.shape[-1] / 48
    if deviation == 0:
        return clips
    radius = int(3 * deviation) + 1
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / deviation) ** 2)
    kernel = (weights / weights.sum()).reshape(1, 1, 1, -1)
    planes = clips.flatten(0, 2)[:, None].float()
    for shape in (kernel, kernel.transpose(2, 3)):
        margins = (radius, radius, 0, 0) if shape.shape[3] > 1 else (0, 0, radius, radius)
        planes = F.conv2d(F.pad(planes, margins, mode="replicate"), shape)
    return _as_pixels(planes[:, 0].unflatten(0, clips.shape[:3]))


def shuffle(clips: Tensor, level: float) -> Tensor:
    """Deal out a share `level` of the frames of each clip anew among their places."""
    shuffled = clips.clone()
    generator = _generator()
    for clip, source in zip(shuffled, clips, strict=True):
        places = torch.randperm(len(source), generator=generator)
        places = places[: round(level * len(source))]
        clip[places] = source[places.roll(1)]
    return shuffled


def freeze(clips: Tensor, level: float) -> Tensor:
    """Let each clip stand still over its last share `level`; 1 shows the first frame alone."""
    last = min(len(clips[0]) - 1, round((1 - level) * len(clips[0])))
    frames = torch.arange(len(clips[0])).clamp(max=last)
    return clips[:, frames]


def colour_shift(clips: Tensor, level: float) -> Tensor:
    """Make every frame redder by `level` grey levels and less blue by half as many."""
    shift = torch.tensor([level, 0.0, -level / 2])[:, None, None]
    return _as_pixels(clips + shift)


CORRUPTIONS: Mapping[str, tuple[Corruption, Sequence[float]]] = {
    "noise": (noise, (5, 15, 30, 45, 60)),
    "blur": (blur, (1.25, 1.5, 2, 3, 4)),
    "shuffled frames": (shuffle, (0.2, 0.4, 0.6, 0.8, 1)),
    "frozen frames": (freeze, (0.2, 0.4, 0.6, 0.8, 1)),
    "colour shift": (colour_shift, (5, 15, 30, 45, 60)),
}


def response(
    extractor: FeatureExtractor, clean: Tensor, held_out: Tensor
) -> dict[str, list[float]]:
    """Frechet distances of `held_out` clips, ever more spoiled, to `clean` ones.

    Input:   uint8 clips (N, frames, 3, H, W), different ones of one kind
    Output:  by corruption: of the clips as they are, then of the levels of `CORRUPTIONS`
    """
    reference = Summary.of(features(extractor, clean))
    base = distance(reference, Summary.of(features(extractor, held_out)))
    rows = {}
    for name, (corrupt, levels) in CORRUPTIONS.items():
        spoiled = (features(extractor, corrupt(held_out, level)) for level in levels)
        rows[name] = [base, *(distance(reference, Summary.of(values)) for values in spoiled)]
    return rows


def features(extractor: FeatureExtractor, clips: Tensor) -> Tensor:
    """The features of clips in batches, (N, width)."""
    return torch.cat([extractor(batch)["features"] for batch in clips.split(BATCH)])


def _as_pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
