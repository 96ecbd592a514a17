"""Drawing the times of generated clips so that they are spread as those of real clips are."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from configs.shapes import FrameTimes

GRAIN = 4096  # parts of an interval: with them float32 keeps gaps whole up to 2^24 / GRAIN frames


def draw_times(
    times: FrameTimes, available: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Times of generated clips: drawn like those of real ones, but from a start between frames.

    A clip of length L gets one of the distances that `FrameTimes.spans` gives for L, a start
    uniform in [0, L - 1 - distance), and frames at distinct whole intervals after it, the first
    and the last always among them. So gaps are whole numbers, exactly, like those of real clips:
    the discriminator must not tell them by a fraction. Runs on the device of `available`,
    without waiting for it.

    Inputs:  available (B,) int64, frames that each clip may use (of a real clip drawn at random)
    Output:  (B, F) float32, ascending, in [0, L - 1]; beyond it only where L < F
    Source:  StyleGAN-V (arXiv 2112.14683), section 3.3
    """
    device, count = available.device, len(available)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, dtype=torch.float64, device=device, generator=generator)

    spans, choices, longest = span_table(times, device)
    length = available.clamp(max=times.longest_video)
    choice = (uniform() * choices[length]).long()
    span = spans[length, choice]
    start = (uniform() * (length - 1 - span).clamp(min=0) * GRAIN).floor() / GRAIN

    # The whole distances between both ends, in random order; those at or beyond the end come last.
    inner = torch.arange(1, longest, device=device)
    order = uniform(longest - 1).masked_fill(inner >= span[:, None], 2.0)
    chosen = order.topk(times.frames - 2, largest=False).indices.sort().values + 1
    steps = torch.cat([torch.zeros_like(span)[:, None], chosen, span[:, None]], dim=1)
    return (start[:, None] + steps).float()


@lru_cache(maxsize=16)
def span_table(times: FrameTimes, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """`FrameTimes.spans` of every length as tensors.

    Outputs:  spans (longest_video + 1, S) int64, rows filled up with zeros; how many there are of
              each length, (longest_video + 1,) int64; the longest span of all
    """
    lists = [times.spans(length) for length in range(times.longest_video + 1)]
    width = max(len(spans) for spans in lists)
    rows = [spans + [0] * (width - len(spans)) for spans in lists]
    counts = [len(spans) for spans in lists]
    longest = max(max(spans) for spans in lists)
    return torch.tensor(rows, device=device), torch.tensor(counts, device=device), longest
