"""Properties of the noise schedule that hold whatever its numbers."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, integer_timesteps, log_snr_timesteps


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule.linear()


def test_noise_added_is_noise_removed(schedule: NoiseSchedule) -> None:
    start, noise = torch.randn(5, 2, 3, 4, 4), torch.randn(5, 2, 3, 4, 4)
    level = torch.tensor([0, 1, 250, 600, 900])
    noisy = schedule.add_noise(start, noise, level)
    torch.testing.assert_close(
        schedule.predict_start(noisy, noise, level), start, atol=1e-3, rtol=1e-3
    )


def test_noise_and_velocity_follow_from_each_other(schedule: NoiseSchedule) -> None:
    start, noise = torch.randn(5, 2, 3, 4, 4), torch.randn(5, 2, 3, 4, 4)
    level = torch.tensor([0, 1, 250, 600, 999])
    noisy = schedule.add_noise(start, noise, level)
    velocity = schedule.velocity(start, noise, level)
    torch.testing.assert_close(schedule.noise_of_velocity(noisy, velocity, level), noise)
    torch.testing.assert_close(velocity[0], noise[0], atol=0.1, rtol=0.1)  # hardly any noise
    torch.testing.assert_close(velocity[4], -start[4], atol=0.1, rtol=0.1)  # hardly any signal


def test_the_ends_are_clean_and_pure_noise(schedule: NoiseSchedule) -> None:
    assert schedule.signal_squared[0] == pytest.approx(1 - 1e-4)
    assert schedule.signal_squared[-1] < 1e-4
    assert (schedule.signal_squared.diff() < 0).all()


def test_stratified_levels_come_one_from_each_part_of_the_range(schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    count = 5
    drawn = [schedule.draw_levels(count, torch.device("cpu"), stratified=True) for _ in range(2000)]
    levels = torch.stack(drawn)  # (draws, B)
    assert (levels.sort().values // (1000 // count) == torch.arange(count)).all()
    assert levels.min() < 5
    assert 995 <= levels.max() < 1000
    # Every item by itself is still uniform: it is not always in the same part.
    parts = torch.stack([(levels // 200 == part).float().mean(0) for part in range(count)])
    torch.testing.assert_close(parts, torch.full((count, count), 0.2), atol=0.04, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])


def test_posterior_agrees_with_bayes(schedule: NoiseSchedule) -> None:
    """q(x_{t-1} | x_t, x_0) from the product of q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    t, start, noisy = 400, torch.tensor([0.7]), torch.tensor([-0.2])
    beta, before = schedule.betas[t], schedule.signal_squared[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = ((1 - beta).sqrt() / beta * noisy + before.sqrt() / (1 - before) * start) / precision
    level = torch.tensor([t])
    torch.testing.assert_close(schedule.posterior_mean(start, noisy, level), mean.float())
    torch.testing.assert_close(schedule.posterior_log_variance[t], -precision.log())


def test_learned_variance_lies_between_its_bounds(schedule: NoiseSchedule) -> None:
    level = torch.tensor([500])
    for interpolation, table in (
        (-1.0, schedule.posterior_log_variance),
        (1.0, schedule.log_betas),
    ):
        found = schedule.log_variance(torch.full((1, 2), interpolation), level)
        torch.testing.assert_close(found, table[500].float().expand(1, 2))


def test_respacing_keeps_the_noise_levels(schedule: NoiseSchedule) -> None:
    kept = fractional_timesteps(1000, 37)
    short = schedule.respaced(kept)
    torch.testing.assert_close(short.signal_squared, schedule.signal_squared[kept])
    assert short.timesteps.tolist() == kept


@pytest.mark.parametrize("steps", [1, 2, 10, 999, 1000])
def test_fractional_spacing_covers_the_range(steps: int) -> None:
    kept = fractional_timesteps(1000, steps)
    assert kept[0] == 0
    assert len(set(kept)) == steps
    assert kept[-1] == (999 if steps > 1 else 0)


@pytest.mark.parametrize("steps", [2, 10, 50, 1000])
def test_log_snr_spacing_covers_the_range_evenly(schedule: NoiseSchedule, steps: int) -> None:
    kept = log_snr_timesteps(schedule.log_snr, steps)
    assert kept[0] == 0
    assert kept[-1] == 999
    assert all(later > earlier for earlier, later in itertools.pairwise(kept))
    if steps == 10:
        gaps = schedule.log_snr[kept].diff()
        assert gaps.max() / gaps.min() == pytest.approx(1, abs=0.5)


def test_impossible_spacings_are_refused() -> None:
    with pytest.raises(ValueError, match="no integer stride"):
        integer_timesteps(1000, 300)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="from 1 to 1000"):
            fractional_timesteps(1000, steps)
