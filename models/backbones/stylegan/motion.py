"""Time in StyleGAN-V (arXiv 2112.14683): the generator's motion, the discriminator's time gaps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.layers.equalised import EqualisedLinear, TemporalConvolution

CONVOLUTIONS = 2


@dataclass(frozen=True)
class MotionSizes:
    """Sizes of the motion encoder. Times are in frames.

    `anchor_distance` lies between the times that have a motion code of their own; `periods`
    counts the waves of the time encoding, whose periods grow geometrically from
    `shortest_period` to `longest_period`.
    """

    noise_width: int = 512
    code_width: int = 512
    kernel: int = 11
    anchor_distance: int = 16
    periods: int = 256
    shortest_period: float = 16.0
    longest_period: float = 1024.0

    @property
    def width(self) -> int:
        """Width of what the generator is given for each frame: a sine and a cosine per period."""
        return 2 * self.periods

    @property
    def context(self) -> int:
        """Noise vectors that a code sees beside the one at its own place."""
        return CONVOLUTIONS * (self.kernel - 1)

    def noise_length(self, latest: float) -> int:
        """Noise vectors needed for times up to `latest`: those around its two anchors."""
        return math.floor(latest / self.anchor_distance) + 2 + self.context


class MotionEncoder(nn.Module):
    """Random motion that is defined at every time >= 0: noise, smoothed over time, then waves.

    Letters:  B clips, F frames, L noise vectors (at least `sizes.noise_length(latest time)`),
              Zm noise width, V motion width (`sizes.width`)
    Inputs:   times (B, F), in frames, any order; noise (B, L, Zm), standard normal
    Output:   (B, F, V) float32, whatever autocast says: phases grow to hundreds of radians
    """

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        self.sizes = sizes
        widths = [sizes.noise_width] + CONVOLUTIONS * [sizes.code_width]
        self.conv = nn.ModuleList(
            TemporalConvolution(given, wanted, sizes.kernel, learning_rate=0.01)
            for given, wanted in pairwise(widths)
        )
        self.time_encoder = AcyclicEncoding(sizes)

    def forward(self, times: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast(times.device.type, enabled=False):
            times = times.float()
            left = torch.div(times, self.sizes.anchor_distance, rounding_mode="floor").long()
            first, codes = self.codes(left, noise.float())
            place = (left - first)[..., None].expand(-1, -1, codes.shape[-1])
            return self.time_encoder(times, codes.gather(1, place), codes.gather(1, place + 1))

    def codes(self, left: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The motion codes between which the frames lie, and the anchor of each clip's first code.

        A code sees the noise around it alone, so that a short clip late in a long video costs
        no more than at its start.

        Inputs:   left (B, F) int64, the anchor before each frame; noise (B, L, Zm)
        Outputs:  (B, 1) int64, the first anchor of each clip; codes (B, K, Wm) from there on
        Raises:   ValueError for times below 0, or later than the noise reaches
        """
        first = left.amin(1, keepdim=True)
        earliest, latest, span = torch.stack(
            [first.min(), left.max(), (left - first).max()]
        ).tolist()
        needed = latest + 2 + self.sizes.context
        if earliest < 0:
            raise ValueError("motion is defined from time 0 on; shift the times of the clip")
        if noise.shape[1] < needed:
            raise ValueError(
                f"motion noise of {noise.shape[1]} vectors is too short for these times; "
                f"{needed} are needed (see noise_length)"
            )
        window = first + torch.arange(span + 2 + self.sizes.context, device=left.device)
        # A clip that spans less than the widest one does not use its last codes.
        window = window.clamp(max=noise.shape[1] - 1)
        codes = noise.gather(1, window[..., None].expand(-1, -1, noise.shape[2])).transpose(1, 2)
        for convolution in self.conv:
            codes = convolution(codes)
        return first, codes.transpose(1, 2)


class AcyclicEncoding(nn.Module):
    """Waves of time that change frequency and phase at every anchor, so that they never repeat.

    At an anchor the encoding is a linear map of its code alone, which makes it continuous:

        theta(s) = omega (tanh(P c) + 1) s + rho Q c,   e(s) = [sin theta(s), cos theta(s)]
        v(t)     = e(t) - [(1 - a) e(tl) + a e(tr)] + [(1 - a) A c + a A c']

    with the codes c and c' of the anchors tl <= t < tr, and a the place of t between them.

    Letters:  Wm code width, V = 2 periods
    Inputs:   times (B, F) float32; left and right (B, F, Wm) float32, the codes around them
    Output:   (B, F, V) float32
    """

    frequencies: Tensor
    phase_scales: Tensor

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        self.distance = sizes.anchor_distance
        self.periods_predictor = EqualisedLinear(sizes.code_width, sizes.periods, bias=None)
        self.phase_predictor = EqualisedLinear(sizes.code_width, sizes.periods, bias=None)
        self.aligners_predictor = EqualisedLinear(sizes.code_width, sizes.width, bias=None)
        shortest, longest = math.log2(sizes.shortest_period), math.log2(sizes.longest_period)
        octaves = torch.linspace(shortest, longest, sizes.periods, dtype=torch.float64)
        frequencies = (2 * math.pi / 2**octaves).flip(0)
        phase_scales = sizes.longest_period * frequencies / (2 * math.pi)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.register_buffer("phase_scales", phase_scales.float(), persistent=False)

    def forward(self, times: Tensor, left: Tensor, right: Tensor) -> Tensor:
        times = times[..., None]
        before = torch.div(times, self.distance, rounding_mode="floor") * self.distance
        share = (times - before) / self.distance
        frequencies = self.frequencies * (self.periods_predictor(left).tanh() + 1)
        phases = self.phase_scales * self.phase_predictor(left)

        def waves(moments: Tensor) -> Tensor:
            angles = frequencies * moments + phases
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

        gap = torch.lerp(waves(before), waves(before + self.distance), share)
        aligned = torch.lerp(self.aligners_predictor(left), self.aligners_predictor(right), share)
        return waves(times) - gap + aligned


class TimeGaps(nn.Module):
    """How far apart the frames of a clip are, as a vector for the discriminator.

    Every gap between neighbours in time order of the clip is embedded by a learned table, at the
    nearest whole number, and by sines and cosines. Absolute time is not seen.

    Letters:  B clips, F frames, C = (F - 1) (table width + 2 ceil(log2 longest_video))
    Input:    times (B, F), in frames, ascending, gaps below `longest_video`
    Output:   (B, C) float32
    """

    frequencies: Tensor

    def __init__(self, longest_video: int, table_width: int = 256) -> None:
        super().__init__()
        self.const_embed = nn.Embedding(longest_video, table_width)
        count = math.ceil(math.log2(longest_video))
        frequencies = math.pi * 2.0 ** (torch.arange(count) - count)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def width(self, frames: int) -> int:
        """Width of the output for clips of so many frames."""
        return (frames - 1) * (self.const_embed.embedding_dim + 2 * len(self.frequencies))

    def forward(self, times: Tensor) -> Tensor:
        gaps = times.float().diff(dim=1)
        with torch.autocast(times.device.type, enabled=False):
            angles = gaps[..., None] * self.frequencies
            rows = self.const_embed(gaps.round().long())
            return torch.cat([rows, angles.sin(), angles.cos()], dim=-1).flatten(1)
