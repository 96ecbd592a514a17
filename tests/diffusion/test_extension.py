"""Long videos from overlapping windows, on Gaussian data whose perfect denoiser is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.extension import (
    WindowNoise,
    Windows,
    conditioned,
    extended,
    mixed_noise,
    noise_after,
)
from diffusion.samplers import SAMPLERS, SOLVERS, Denoise
from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, log_snr_timesteps

FRAMES, DEVIATION, CORRELATION = 6, 0.6, 0.9
FULL = NoiseSchedule.linear()
STEPS = {"ddpm": 40, "ddim": 30, "dpm_solver": 15, "unipc2": 15, "unipc3": 12}


def data_covariance(frames: int = FRAMES) -> Tensor:
    """Frames of every pixel are a stationary process without memory but of the last frame."""
    index = torch.arange(frames, dtype=torch.float64)
    return DEVIATION**2 * CORRELATION ** (index[:, None] - index[None]).abs()


def noise_covariance(share: float) -> Tensor:
    identity = torch.eye(FRAMES, dtype=torch.float64)
    constant = torch.full((FRAMES, FRAMES), 1 / FRAMES, dtype=torch.float64)
    if share == 0:
        return identity
    own = (1 - share) * FRAMES / (FRAMES - 1)
    return share * FRAMES * constant + own * (identity - constant)


def perfect_denoiser(share: float = 0.0) -> Denoise:
    noises = noise_covariance(share)

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        signal, noise = FULL.signal[timestep[0]], FULL.noise[timestep[0]]
        noisy_covariance = signal**2 * data_covariance() + noise**2 * noises
        matrix = (noise * noises @ torch.linalg.inv(noisy_covariance)).to(noisy.dtype)
        expected = torch.einsum("fg,bgchw->bfchw", matrix, noisy)
        return torch.cat([expected, torch.full_like(expected, -1)], dim=2)

    return denoise


def schedule(sampler: str, steps: int | None = None) -> NoiseSchedule:
    count = steps or STEPS[sampler]
    if sampler in SOLVERS:
        return FULL.respaced(log_snr_timesteps(FULL.log_snr, count))
    return FULL.respaced(fractional_timesteps(len(FULL), count))


def source(seeds: list[int], side: int) -> Callable[[], Tensor]:
    """Noise of videos, each from its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (FRAMES, 1, side, side)
    return lambda: torch.stack([torch.randn(shape, generator=each) for each in generators])


def sample(
    sampler: str,
    total: int,
    *,
    overlap: int = 2,
    share: float = 0.0,
    corrections: int = 0,
    seeds: tuple[int, ...] = (0,),
    side: int = 4,
    steps: int | None = None,
) -> Tensor:
    noise = WindowNoise(source(list(seeds), side), Windows(FRAMES, overlap, total), share=share)
    pieces = extended(
        SAMPLERS[sampler],
        schedule(sampler, steps),
        lambda: perfect_denoiser(share),
        noise,
        corrections,
    )
    with torch.no_grad():
        return torch.cat(list(pieces), dim=1)


def correlations(videos: Tensor) -> tuple[Tensor, Tensor]:
    """Of neighbouring frames (F - 1,), and the variance of each frame (F,)."""
    values = videos.double().transpose(0, 1).flatten(1)
    products = values @ values.T / values.shape[1]
    variance = products.diag()
    neighbours = products.diagonal(1) / (variance[1:] * variance[:-1]).sqrt()
    return neighbours, variance


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("length", "overlap", "total", "count", "seams"),
    [
        (8, 4, 8, 1, []),
        (8, 4, 3, 1, []),
        (8, 4, 9, 2, [8]),
        (8, 4, 12, 2, [8]),
        (8, 2, 20, 3, [8, 14]),
        (8, 7, 10, 3, [8, 9]),
    ],
)
def test_windows_reach_the_end(
    length: int, overlap: int, total: int, count: int, seams: list[int]
) -> None:
    windows = Windows(length, overlap, total)
    assert windows.count == count
    assert windows.seams == seams
    assert length + (count - 1) * (length - overlap) >= total


@pytest.mark.parametrize(("overlap", "total"), [(0, 9), (8, 9), (9, 20), (2, 0)])
def test_impossible_windows_are_refused(overlap: int, total: int) -> None:
    with pytest.raises(ValueError, match=r"overlap|at least 1 frame"):
        Windows(8, overlap, total)


def test_one_window_needs_no_overlap() -> None:
    assert Windows(1, 1, 1).count == 1


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("overlap", [1, 4, 5])
def test_every_window_has_the_noise_of_a_clip(share: float, overlap: int) -> None:
    noise = WindowNoise(source([0, 1], 80), Windows(FRAMES, overlap, 40), share=share)
    first = noise()
    noise.next_window()
    second = noise()
    assert torch.equal(second[:, :overlap], first[:, -overlap:])
    for window in (first, second):
        values = window.double().transpose(0, 1).flatten(1)
        found = values @ values.T / values.shape[1]
        torch.testing.assert_close(found, noise_covariance(share), atol=0.05, rtol=0)


def test_new_noise_depends_on_given_noise_as_in_a_clip() -> None:
    """Against the conditional mean and covariance by inverting matrices."""
    share, kept = 0.6, 2
    given = torch.tensor([0.7, -0.2], dtype=torch.float64).view(1, 2, 1)
    fresh = torch.randn(200_000, FRAMES - kept, 1, dtype=torch.float64)
    drawn = noise_after(given.expand(len(fresh), -1, -1), fresh, share)[:, kept:, 0]
    covariance = noise_covariance(share)
    weights = covariance[kept:, :kept] @ torch.linalg.inv(covariance[:kept, :kept])
    torch.testing.assert_close(drawn.mean(0), weights @ given[0, :, 0], atol=0.01, rtol=0)
    expected = covariance[kept:, kept:] - weights @ covariance[:kept, kept:]
    torch.testing.assert_close(drawn.T.cov(), expected, atol=0.01, rtol=0)


def test_each_call_goes_on_with_its_own_predecessor() -> None:
    noise = WindowNoise(source([0], 2), Windows(FRAMES, 2, 40), share=0.5)
    first = [noise(), noise()]
    noise.next_window()
    second = [noise(), noise(), noise()]  # a call that the window before did not have is new
    for one, other in zip(first, second, strict=False):
        assert torch.equal(one[:, -2:], other[:, :2])
    assert not torch.equal(second[2][:, :2], second[1][:, :2])


# ---------------------------------------------------------------- conditioning


def test_two_corrections_find_the_expectation_given_the_known_frames() -> None:
    """Against the exact one: known frames clean, new ones noisy, noise of the frames shared."""
    overlap, share, side = 2, 0.5, 3
    torch.manual_seed(0)
    levels = schedule("ddim")
    level = torch.tensor([17, 17])
    data = torch.linalg.cholesky(data_covariance()) @ torch.randn(FRAMES, 2 * side**2).double()
    start = data.view(FRAMES, 2, 1, side, side).transpose(0, 1).contiguous()
    noise = mixed_noise(torch.randn(start.shape, dtype=torch.float64), share)
    noisy = levels.signal[17] * start + levels.noise[17] * noise
    known = start[:, :overlap]

    # Everything as one Gaussian vector: clean new frames, given known frames and noisy frames.
    signal, deviation = levels.signal[17], levels.noise[17]
    covariance = data_covariance()
    seen = torch.cat([torch.eye(FRAMES).double()[:overlap], signal * torch.eye(FRAMES).double()])
    noise_of_seen = torch.zeros(overlap + FRAMES, overlap + FRAMES, dtype=torch.float64)
    noise_of_seen[overlap:, overlap:] = deviation**2 * noise_covariance(share)
    gain = covariance @ seen.T @ torch.linalg.pinv(seen @ covariance @ seen.T + noise_of_seen)
    observed = torch.cat([known, noisy], dim=1)
    expected = torch.einsum("fg,bgchw->bfchw", gain, observed)

    errors = []
    for corrections in (0, 1, 2):
        function = conditioned(perfect_denoiser(share), levels, known, corrections, share)
        prediction = function(noisy, levels.timesteps[level])
        found = (noisy - deviation * prediction.chunk(2, dim=2)[0].double()) / signal
        torch.testing.assert_close(found[:, :overlap], known, atol=1e-4, rtol=0)
        errors.append((found - expected)[:, overlap:].abs().max().item())
    assert errors[1] < errors[0]
    assert errors[2] < 1e-3 < 0.05 < errors[0]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_long_videos_have_the_distribution_of_the_data(sampler: str, share: float) -> None:
    total, settings = 3 * FRAMES, {"share": share, "seeds": tuple(range(48)), "side": 8}
    seams = torch.tensor(Windows(FRAMES, 2, total).seams) - 1
    clips = correlations(sample(sampler, FRAMES, **settings))  # type: ignore[arg-type]
    video = sample(sampler, total, corrections=2, **settings)  # type: ignore[arg-type]
    neighbours, variance = correlations(video)
    assert neighbours.min() > CORRELATION - 0.03
    assert neighbours.max() < CORRELATION + 0.03
    torch.testing.assert_close(neighbours[seams].mean(), clips[0].mean(), atol=0.02, rtol=0)
    # A sampler of few steps has an error of its own; windows add little to it.
    torch.testing.assert_close(variance[FRAMES:].mean(), clips[1].mean(), atol=0.0, rtol=0.1)
    replaced = sample(sampler, total, **settings)  # type: ignore[arg-type]
    assert correlations(replaced)[0][seams].mean() < neighbours[seams].mean() - 0.02


# ---------------------------------------------------------------- videos


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize(("corrections", "share"), [(0, 0.0), (1, 0.7)])
def test_a_longer_video_begins_with_the_shorter_one(
    sampler: str, corrections: int, share: float
) -> None:
    settings = {"share": share, "corrections": corrections, "seeds": (3, 4), "steps": 6}
    longest = sample(sampler, 17, **settings)  # type: ignore[arg-type]
    for total in (2, FRAMES, 8, 12):
        shorter = sample(sampler, total, **settings)  # type: ignore[arg-type]
        assert torch.equal(longest[:, :total], shorter[:, :total])
    draw = source([3, 4], 4)
    clip = SAMPLERS[sampler](
        schedule(sampler, 6),
        perfect_denoiser(share),
        mixed_noise(draw(), share),
        lambda: mixed_noise(draw(), share),
        lambda done, total: None,
    )
    assert torch.equal(longest[:, :FRAMES], clip)
    assert longest.shape[1] >= 17


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_video_depends_on_its_own_noise_alone(sampler: str) -> None:
    settings = {"share": 0.5, "corrections": 2, "steps": 6}
    together = sample(sampler, 14, seeds=(7, 8, 9), **settings)  # type: ignore[arg-type]
    alone = sample(sampler, 14, seeds=(8,), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_windows_come_one_at_a_time_and_progress_counts_all() -> None:
    calls: list[tuple[int, int]] = []
    denoisers: list[int] = []

    def denoise() -> Denoise:
        denoisers.append(len(calls))
        return perfect_denoiser()

    noise = WindowNoise(source([0], 2), Windows(FRAMES, 2, 12))
    levels = schedule("ddim", 5)
    pieces = extended(
        SAMPLERS["ddim"], levels, denoise, noise, report=lambda *done: calls.append(done)
    )
    sizes = []
    for done, piece in enumerate(pieces, start=1):
        sizes.append(piece.shape[1])
        assert calls[-1] == (5 * done, 15)  # nothing of the next window has begun
    assert sizes == [6, 4, 4]
    assert calls == [(k, 15) for k in range(1, 16)]
    assert denoisers == [0, 5, 10]
    assert all(one < other for one, other in itertools.pairwise(calls))
