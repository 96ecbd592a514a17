"""Videos longer than a diffusion model's clips, by windows that overlap; nothing is trained.

The first window is a clip as ever. Every further one is a clip whose first frames are given: the
last frames of what is there. A model of whole clips is conditioned on them by saying, at every
step of the sampler, that the clean sample of the given frames is known (replacement; arXiv
2204.03458, section 3.1, and 2201.09865). A sampler then moves these frames along the diffusion of
the known ones: deterministic ones straight from noise to known frame, DDPM by draws from the
posterior. In a sampler's own arithmetic frames do not mix, so this holds for multistep samplers
with their history too, and no sampler knows of it.

Replacement alone leaves it to the network to let new frames follow the given ones, and falls short
even with a perfect network: new frames move away from what the given ones say of them. Two things
mend that. `WindowNoise` lets the given frames keep the noise that they were made from, and draws
that of the new ones to go with it, which matters where frames share noise. And corrections (see
`conditioned`) bring the network's own idea of the given frames to what they are, and that of the
new ones along with it: with two of them Gaussian data come out right. Going back to a noisier level
and denoising again, as RePaint does, was tried over half the steps and more, and did not help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.samplers import Denoise, Draw, Report, Sampler
from diffusion.schedule import NoiseSchedule, at, on_device

TINY = 1e-20  # stands in for a squared norm of zero


@dataclass(frozen=True)
class Windows:
    """How windows of `length` frames, each beginning with the last `overlap` frames of the one
    before, make a video of `total` frames. Frames are those of the latents.

    Raises ValueError where `total` is below 1, or `overlap` not from 1 to length - 1 though more
    than one window is needed.
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


class WindowNoise:
    """Noise of windows, each of which is distributed as a clip's is.

    In a further window the given frames keep the noise that they were made from, at every call of
    the sampler; that of the new frames is drawn given theirs. So where frames share noise, new ones
    have about the same part of it. What is kept is the given frames' noise of every call.

    Inputs:  draw, standard normal noise (B, F, C, h, w), F the window's length
             share, that of the variance which a clip's frames have in common, see `mixed_noise`
    """

    def __init__(self, draw: Draw, windows: Windows, *, share: float = 0.0) -> None:
        self.draw, self.windows, self.share = draw, windows, share
        self._earlier: list[Tensor] = []  # by call, of the given frames
        self._current: list[Tensor] = []

    def next_window(self) -> None:
        """What was drawn so far is of an earlier window."""
        self._earlier, self._current = self._current, []

    def __call__(self) -> Tensor:
        """(B, F, C, h, w) of unit variance."""
        fresh, call, overlap = self.draw(), len(self._current), self.windows.overlap
        if self.windows.count == 1:
            return mixed_noise(fresh, self.share)
        if call < len(self._earlier):
            noise = noise_after(self._earlier[call], fresh[:, overlap:], self.share)
        else:
            noise = mixed_noise(fresh, self.share)
        self._current.append(noise[:, -overlap:].clone())
        return noise


def mixed_noise(noise: Tensor, share: float) -> Tensor:
    """Let the F frames of each clip share part of their noise (arXiv 2305.10474, mixed noise).

    The mean of F independent draws, scaled to unit variance, is the shared part, so that no
    further random numbers are needed; what remains of each frame is its own part.

    Inputs:  noise (B, F, C, h, w), standard normal; share of the variance, from 0 to below 1
    """
    if share == 0:
        return noise
    frames = noise.shape[1]
    mean = noise.mean(1, keepdim=True)
    shared, own = mean * frames**0.5, (noise - mean) * (frames / (frames - 1)) ** 0.5
    return share**0.5 * shared + (1 - share) ** 0.5 * own


def noise_after(given: Tensor, fresh: Tensor, share: float) -> Tensor:
    """Mixed noise of a clip of which the first frames' is given.

    Frames of mixed noise have unit variance and all the same covariance, so that new ones depend
    on the sum of the given ones, and among themselves are of that kind again.

    Inputs:  given (B, K, ...), fresh (B, F - K, ...) standard normal; share as in `mixed_noise`
    Output:  (B, F, ...), the given ones first
    """
    kept, new = given.shape[1], fresh.shape[1]
    covariance = _covariance(kept + new, share)
    weight = covariance / (1 + (kept - 1) * covariance)
    total = given.sum(1, keepdim=True)
    # Variances of the new frames' common part and of what is apart from it, given the others.
    common = 1 + (new - 1) * covariance - new * kept * covariance * weight
    mean = fresh.mean(1, keepdim=True)
    drawn = weight * total + common**0.5 * mean + (1 - covariance) ** 0.5 * (fresh - mean)
    return torch.cat([given, drawn], dim=1)


def _covariance(frames: int, share: float) -> float:
    """Of two frames of a clip's mixed noise."""
    return share - (1 - share) / (frames - 1) if share else 0.0


def extended(
    sampler: Sampler,
    schedule: NoiseSchedule,
    denoise: Callable[[], Denoise],
    noise: WindowNoise,
    corrections: int = 0,
    report: Report = lambda done, total: None,
) -> Iterator[Tensor]:
    """Sample a long video, a window at a time: yields the new frames (B, n, C, h, w) of each.

    The first are those of a clip sampled by itself. Windows are whole, so that a longer video
    begins with the shorter one of the same noise; all together may be more than the video's total.

    Inputs:  schedule, the levels that the sampler visits
             denoise, makes the denoising function of one window
             noise, of the videos; it knows the windows
             corrections, see `conditioned`
             report, gets (steps done, steps in all), over all windows
    """
    windows, overlap, steps = noise.windows, noise.windows.overlap, len(schedule)

    def reporting(window: int) -> Report:
        return lambda done, _: report(window * steps + done, windows.count * steps)

    window = sampler(schedule, denoise(), noise(), noise, reporting(0))
    yield window
    for index in range(1, windows.count):
        noise.next_window()
        known, start = window[:, -overlap:], noise()
        level = torch.full((len(known),), steps - 1, device=known.device)
        diffused = schedule.add_noise(known, start[:, :overlap], level)
        start = torch.cat([diffused, start[:, overlap:]], dim=1)
        function = conditioned(denoise(), schedule, known, corrections, noise.share)
        window = sampler(schedule, function, start, noise, reporting(index))
        window = torch.cat([known, window[:, overlap:]], dim=1)  # known to the last bit
        yield window[:, overlap:]


def conditioned(
    denoise: Denoise,
    schedule: NoiseSchedule,
    known: Tensor,
    corrections: int = 0,
    share: float = 0.0,
) -> Denoise:
    """A denoiser of windows whose first frames are known: of these it predicts the noise that
    leads to the known ones, and the posterior's variance.

    Each correction is a backward pass through `denoise`, with respect to the noisy window.

    Inputs:  schedule, the levels that are visited; known (B, K, C, h, w) clean, 1 <= K < F
             share, what frames share of the noise's variance
    """
    overlap = known.shape[1]

    def function(noisy: Tensor, timestep: Tensor) -> Tensor:
        level = torch.searchsorted(on_device(schedule.timesteps, timestep.device), timestep)
        signal, deviation = at(schedule.signal, level, noisy), at(schedule.noise, level, noisy)
        if corrections:
            prediction = _corrected(
                lambda given: denoise(given, timestep),
                noisy,
                known,
                (signal, deviation),
                corrections,
                share,
            )
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
    denoise: Callable[[Tensor], Tensor],
    noisy: Tensor,
    known: Tensor,
    level: tuple[Tensor, Tensor],
    corrections: int,
    share: float,
) -> Tensor:
    """The prediction for a window, given also that its first frames are `known`.

    By Tweedie's formula the covariance C of the clean sample, given the noisy one, is up to a
    factor the covariance of the noise times the transposed Jacobian of the expectation E. So for
    Gaussian data the expectation given the known frames too is E + C v with that v, zero on new
    frames, for which the known ones come out. Each step adds the product of C with what they still
    lack, made orthogonal on the known frames to the products before (generalised conjugate
    residuals): what they lack shrinks with every step, whatever the scale of C.
    """
    (signal, deviation), overlap = level, known.shape[1]
    with torch.enable_grad():
        given = noisy.detach().requires_grad_()
        prediction = denoise(given).float()
        predicted, interpolation = prediction.chunk(2, dim=2)
        start = (given - deviation * predicted) / signal
    lacking = known - start.detach()[:, :overlap]
    change = torch.zeros_like(noisy)
    products: list[tuple[Tensor, Tensor]] = []  # and their squared norms on the known frames
    for step in range(corrections):
        vector = torch.cat([lacking, torch.zeros_like(noisy[:, overlap:])], dim=1)
        more = step + 1 < corrections
        (through,) = torch.autograd.grad(start, given, vector, retain_graph=more)
        product = _times_covariance(through, share)
        for earlier, norm in products:
            along = _dot(product[:, :overlap], earlier[:, :overlap]) / norm
            product = product - along * earlier
        norm = _dot(product[:, :overlap], product[:, :overlap]).clamp(min=TINY)
        amount = _dot(lacking, product[:, :overlap]) / norm
        change = change + amount * product
        lacking = lacking - amount * product[:, :overlap]
        products.append((product, norm))
    corrected = predicted.detach() - signal / deviation * change
    return torch.cat([corrected, interpolation.detach()], dim=2)


def _times_covariance(values: Tensor, share: float) -> Tensor:
    """The covariance of a clip's noise over its frames times values (B, F, ...)."""
    covariance = _covariance(values.shape[1], share)
    return (1 - covariance) * values + covariance * values.sum(1, keepdim=True)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Of each video: (B, 1, 1, 1, 1)."""
    return (one * other).sum(dim=tuple(range(1, one.ndim)), keepdim=True)
