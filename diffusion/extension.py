"""Videos longer than a diffusion model's clips, by windows that overlap; nothing is trained.

The first window is a clip as ever. Every further one is a clip whose first frames are given: the
last frames of what is there. A model of whole clips is conditioned on them by saying, at every
step of the sampler, that the clean sample of the given frames is known. A sampler then moves these
frames along the diffusion of the known ones: deterministic ones along the straight line between
known frame and noise, DDPM by draws from the posterior. Frames do not mix in a sampler's own
arithmetic, so this holds for each of them, multistep ones with their history included, and none
knows of it. This is the replacement of "Video diffusion models" (arXiv 2204.03458, section 3.1) and
RePaint (arXiv 2201.09865).

Replacement alone leaves it to the network to let new frames follow the given ones. What helps it:

`WindowNoise`      new windows go on with the noise that the given frames came from
`Conditioning`     `corrections`: steps of a conjugate gradient method that bring the network's own
                   idea of the given frames to what they are, and the new ones along with them;
                   `rounds`: going back to a noisier level and denoising again
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion.samplers import Denoise, Draw, Report, Sampler
from diffusion.schedule import NoiseSchedule, at

# What the noise of a new window has from the one before: the noise of the given frames and what
# all frames share, the shared part alone, or nothing.
Carried = Literal["all", "shared", "none"]


@dataclass(frozen=True)
class Windows:
    """How windows of `length` frames, each beginning with the last `overlap` frames of the one
    before, make a video of `total` frames. Frames are those of the latents.

    Raises ValueError where `overlap` is not from 1 to length - 1 or `total` below 1.
    """

    length: int
    overlap: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1:
            raise ValueError(f"a video has at least 1 frame, got {self.total}")
        if self.count > 1 and not 1 <= self.overlap < self.length:
            raise ValueError(
                f"overlap: from 1 to {self.length - 1} frames for windows of {self.length}, "
                f"got {self.overlap}"
            )

    @property
    def count(self) -> int:
        """How many windows it takes."""
        missing = max(0, self.total - self.length)
        return 1 + -(-missing // max(1, self.length - self.overlap))

    @property
    def seams(self) -> list[int]:
        """The first new frame of every window but the first."""
        new = self.length - self.overlap
        return [self.length + k * new for k in range(self.count - 1)]


@dataclass(frozen=True)
class Conditioning:
    """How new frames are made to follow the given ones.

    Attributes:
        corrections  conjugate gradient steps at every denoising step; each costs a backward pass
        rounds       how often a window goes back to a noisier level and is denoised again
        back         how far it goes back, as a share of the steps
    """

    corrections: int = 0
    rounds: int = 0
    back: float = 0.5

    def __post_init__(self) -> None:
        for name in ("corrections", "rounds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: 0 or more, got {getattr(self, name)}")
        if not 0 < self.back <= 1:
            raise ValueError(f"back: above 0 and at most 1, got {self.back}")


class WindowNoise:
    """Noise of windows whose frames share part of it (arXiv 2305.10474, mixed noise).

    The first window's is that of a clip. A further window goes on with what its first call, its
    second call, ... had in the window before: the shared part, and the own parts of the frames
    that are given. The own parts of its new frames are drawn such that the window's noise is
    distributed as a clip's is. What is kept is one number for each of these and call of `draw`.

    Inputs:  draw, standard normal noise (B, F, C, h, w), F the window's length; share, that of the
             variance which all frames have in common, at least 0 and below 1
    """

    def __init__(
        self, draw: Draw, windows: Windows, *, share: float = 0.0, carried: Carried = "all"
    ) -> None:
        self.draw, self.windows, self.share, self.carried = draw, windows, share, carried
        self._earlier: list[tuple[Tensor | None, Tensor | None]] = []  # of the window before
        self._current: list[tuple[Tensor | None, Tensor | None]] = []

    def next_window(self) -> None:
        """What was drawn so far is of an earlier window."""
        self._earlier, self._current = self._current, []

    def __call__(self) -> Tensor:
        """(B, F, C, h, w) of unit variance."""
        fresh, call = self.draw(), len(self._current)
        shared, own = self._earlier[call] if call < len(self._earlier) else (None, None)
        noise, parts = self._mixed(fresh, shared, own)
        self._current.append(parts)
        return noise

    def _mixed(
        self, fresh: Tensor, shared: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        kept = self.windows.overlap
        if self.windows.count == 1:
            return mixed_noise(fresh, self.share), (None, None)
        if self.share == 0:
            if given is not None:
                fresh = torch.cat([given, fresh[:, kept:]], dim=1)
            return fresh, (None, fresh[:, -kept:].clone() if self.carried == "all" else None)
        own_shared, own = noise_parts(fresh)
        if given is not None:
            own = torch.cat([given, _completed(given, fresh[:, kept:])], dim=1)
        parts = own_shared if shared is None else shared
        return _joined(parts, own, self.share), (
            parts if self.carried != "none" else None,
            own[:, -kept:].clone() if self.carried == "all" else None,
        )


def mixed_noise(noise: Tensor, share: float) -> Tensor:
    """Let the F frames of each clip share part of their noise: (B, F, C, h, w).

    The mean of F independent draws, scaled to unit variance, is the shared part, so that no
    further random numbers are needed; what remains of each frame is its own part.
    """
    return noise if share == 0 else _joined(*noise_parts(noise), share)


def noise_parts(noise: Tensor) -> tuple[Tensor, Tensor]:
    """The shared part (B, 1, ...) and own parts (B, F, ...), of unit variance each, of independent
    noise (B, F, ...). The own parts of a clip add up to zero."""
    frames = noise.shape[1]
    mean = noise.mean(1, keepdim=True)
    return mean * frames**0.5, (noise - mean) * (frames / (frames - 1)) ** 0.5


def _joined(shared: Tensor, own: Tensor, share: float) -> Tensor:
    return share**0.5 * shared + (1 - share) ** 0.5 * own


def _completed(given: Tensor, fresh: Tensor) -> Tensor:
    """Own parts of new frames beside given ones, as those of one clip are distributed: all add up
    to zero, each has unit variance.

    Inputs:  given (B, K, ...) own parts; fresh (B, F - K, ...) independent, of unit variance
    """
    count = fresh.shape[1]
    frames = given.shape[1] + count
    centred = (fresh - fresh.mean(1, keepdim=True)) * (frames / (frames - 1)) ** 0.5
    return centred - given.sum(1, keepdim=True) / count


def extended(
    sampler: Sampler,
    schedule: NoiseSchedule,
    denoise: Callable[[NoiseSchedule], Denoise],
    noise: WindowNoise,
    conditioning: Conditioning | None = None,
    report: Report = lambda done, total: None,
) -> Iterator[Tensor]:
    """Sample a long video, a window at a time: yields the new frames (B, n, C, h, w) of each.

    The first are those of a clip sampled by itself. A longer video begins with the shorter one of
    the same noise: the last window is made whole, and what is too much of it is not given away.

    Inputs:  schedule, the levels that the sampler visits
             denoise, makes the function of one run of the sampler over the levels it is given
             noise, of the videos; it knows the windows
             report, gets (steps done, steps in all), over all windows
    """
    conditioning, windows = conditioning or Conditioning(), noise.windows
    kept = max(1, round(conditioning.back * len(schedule)))  # levels of a further round
    again = schedule.respaced(range(kept))
    each = len(schedule) + conditioning.rounds * kept
    total = len(schedule) + (windows.count - 1) * each
    done = 0

    def counted(step: int, _: int) -> None:
        report(done + step, total)

    window = sampler(schedule, denoise(schedule), noise(), noise, counted)
    done += len(schedule)
    yield window[:, : windows.total]
    made = windows.length
    while made < windows.total:
        noise.next_window()
        known = window[:, -windows.overlap :]
        levels, start = schedule, noise()
        for turn in range(conditioning.rounds + 1):
            if turn:
                levels = again
                top = torch.full((len(window),), len(levels) - 1, device=window.device)
                start = levels.add_noise(window, noise(), top)
            start = _with_known(levels, known, start, clean=turn > 0)
            function = conditioned(denoise(levels), levels, known, conditioning.corrections)
            window = sampler(levels, function, start, noise, counted)
            done += len(levels)
        window = torch.cat([known, window[:, windows.overlap :]], dim=1)  # known to the last bit
        yield window[:, windows.overlap :][:, : windows.total - made]
        made += windows.length - windows.overlap


def _with_known(levels: NoiseSchedule, known: Tensor, start: Tensor, *, clean: bool) -> Tensor:
    """Let the first frames of a window's noise be the known ones at the noisiest level; where
    `clean`, the window has been diffused already, known frames and all."""
    if clean:
        return start
    overlap = known.shape[1]
    top = torch.full((len(known),), len(levels) - 1, device=known.device)
    diffused = levels.add_noise(known, start[:, :overlap], top)
    return torch.cat([diffused, start[:, overlap:]], dim=1)


def conditioned(
    denoise: Denoise, schedule: NoiseSchedule, known: Tensor, corrections: int = 0
) -> Denoise:
    """A denoiser of windows whose first frames are known: of these it predicts the noise that
    leads to the known ones, and the posterior's variance.

    Inputs:  schedule, the levels that are visited; known (B, K, C, h, w) clean, 1 <= K < F
    """
    overlap = known.shape[1]

    def function(noisy: Tensor, timestep: Tensor) -> Tensor:
        timesteps = schedule.timesteps.to(timestep.device)
        level = torch.searchsorted(timesteps, timestep)
        signal, deviation = at(schedule.signal, level, noisy), at(schedule.noise, level, noisy)
        if corrections:
            prediction = _corrected(denoise, noisy, timestep, known, signal, deviation, corrections)
        else:
            prediction = denoise(noisy, timestep).float()
        predicted, interpolation = prediction.chunk(2, dim=2)
        noise = (noisy[:, :overlap] - signal * known) / deviation
        least = torch.full_like(interpolation[:, :overlap], -1)
        return torch.cat(
            [
                torch.cat([noise, predicted[:, overlap:]], dim=1),
                torch.cat([least, interpolation[:, overlap:]], dim=1),
            ],
            dim=2,
        )

    return function


def _corrected(
    denoise: Denoise,
    noisy: Tensor,
    timestep: Tensor,
    known: Tensor,
    signal: Tensor,
    deviation: Tensor,
    corrections: int,
) -> Tensor:
    """The prediction for a window, given also that its first frames are `known`.

    By Tweedie's formula the covariance of the clean sample, given the noisy one, is the Jacobian
    of its expectation times deviation^2 / signal. So for Gaussian data the expectation given the
    known frames too is start + C v, where C v restricted to the known frames is what the
    expectation of them lacks. The conjugate residual method finds C v from products with C, each
    one backward pass; every step of it brings the expectation closer to the known frames, whatever
    the scale of C.
    """
    overlap = known.shape[1]
    with torch.enable_grad():
        given = noisy.detach().requires_grad_()
        prediction = denoise(given, timestep).float()
        noise, interpolation = prediction.chunk(2, dim=2)
        start = (given - deviation * noise) / signal
    residual = known - start.detach()[:, :overlap]
    change = torch.zeros_like(noisy)

    def product(vector: Tensor) -> Tensor:
        padded = torch.cat([vector, torch.zeros_like(noisy[:, overlap:])], dim=1)
        return torch.autograd.grad(start, given, padded, retain_graph=True)[0]

    directions: list[tuple[Tensor, Tensor]] = []  # products on all frames, their squared norms
    vector = residual
    for _ in range(corrections):
        through = product(vector)
        for earlier, norm in directions:  # orthogonal on the known frames, C symmetric or not
            overlapping = _dot(through[:, :overlap], earlier[:, :overlap]) / norm
            through = through - overlapping * earlier
        norm = _dot(through[:, :overlap], through[:, :overlap]).clamp(min=1e-12)
        step = _dot(residual, through[:, :overlap]) / norm
        change = change + step * through
        residual = residual - step * through[:, :overlap]
        directions.append((through, norm))
        vector = residual
    noise = noise.detach() - signal / deviation * change
    return torch.cat([noise, interpolation.detach()], dim=2)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Of each video: (B, 1, 1, 1, 1)."""
    return (one * other).sum(dim=tuple(range(1, one.ndim)), keepdim=True)
