"""The variational bound against plain numerical integration and PyTorch's own distributions."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal, kl_divergence

from diffusion.objective import denoising_terms, discretised_log_likelihood, gaussian_kl
from diffusion.schedule import NoiseSchedule


def test_divergence_of_gaussians() -> None:
    mean, log_variance, other, other_log = torch.randn(4, 50)
    first = Normal(mean, (log_variance / 2).exp())
    second = Normal(other, (other_log / 2).exp())
    torch.testing.assert_close(
        gaussian_kl(mean, log_variance, other, other_log),
        kl_divergence(first, second),
        rtol=1e-4,
        atol=1e-5,
    )


def test_likelihoods_of_all_bins_add_up_to_one() -> None:
    values = torch.linspace(-1, 1, 256)
    for mean, deviation in ((0.1, 0.3), (-0.95, 0.05), (0.5, 0.01)):
        logs = discretised_log_likelihood(
            values, torch.tensor(mean), torch.tensor(math.log(deviation))
        )
        torch.testing.assert_close(logs.exp().sum(), torch.tensor(1.0), atol=2e-3, rtol=0)


def test_a_perfect_prediction_costs_nothing() -> None:
    schedule = NoiseSchedule.linear()
    start, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    # -1 is the variance of the true posterior
    prediction = torch.cat([noise, torch.full_like(noise, -1.0)], dim=2)
    terms = denoising_terms(schedule, prediction, start, noise, torch.tensor([500, 20]))
    torch.testing.assert_close(terms.mse, torch.zeros(2))
    torch.testing.assert_close(terms.vb, torch.zeros(2), atol=1e-4, rtol=0)


def test_the_bound_trains_only_the_variance() -> None:
    schedule = NoiseSchedule.linear()
    start, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    prediction = torch.randn(2, 3, 8, 2, 2, requires_grad=True)
    level = torch.tensor([0, 700])
    denoising_terms(schedule, prediction, start, noise, level).vb.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[:, :, :4].abs().max() == 0
    assert prediction.grad[:, :, 4:].abs().flatten(1).amax(1).min() > 0
