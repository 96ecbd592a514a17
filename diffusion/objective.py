"""What a diffusion network is trained on: the noise, and the variance of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.schedule import NoiseSchedule, at


@dataclass(frozen=True)
class DenoisingTerms:
    """The two parts of the loss, per item: (B,) each. Their sum is minimised."""

    mse: Tensor
    vb: Tensor


def denoising_terms(
    schedule: NoiseSchedule, prediction: Tensor, start: Tensor, noise: Tensor, level: Tensor
) -> DenoisingTerms:
    """The hybrid objective of improved DDPM (equation 16), averaged over all but the batch.

        mse = mean (noise - predicted noise)^2
        vb  = L_{t-1} in bits per dimension, which trains only the variance

    Inputs:  prediction (B, F, 2C, h, w): noise, then the variance interpolation v;
             start and noise (B, F, C, h, w); level (B,)
    """
    predicted_noise, interpolation = prediction.float().chunk(2, dim=2)
    mse = _mean_of_items((noise - predicted_noise).square())
    noisy = schedule.add_noise(start, noise, level)
    vb = variational_bound(schedule, predicted_noise.detach(), interpolation, start, noisy, level)
    return DenoisingTerms(mse, vb)


def variational_bound(
    schedule: NoiseSchedule,
    predicted_noise: Tensor,
    interpolation: Tensor,
    start: Tensor,
    noisy: Tensor,
    level: Tensor,
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), or -log p(x_0 | x_1) at level 0: (B,) bits.

    Inputs:  all (B, ...) but level (B,)
    """
    mean = schedule.posterior_mean(start, noisy, level)
    log_variance = at(schedule.posterior_log_variance, level, noisy).expand_as(noisy)
    model_mean = schedule.posterior_mean(
        schedule.predict_start(noisy, predicted_noise, level), noisy, level
    )
    model_log_variance = schedule.log_variance(interpolation, level)
    divergence = _mean_of_items(gaussian_kl(mean, log_variance, model_mean, model_log_variance))
    likelihood = _mean_of_items(
        discretised_log_likelihood(start, model_mean, model_log_variance / 2)
    )
    return torch.where(level == 0, -likelihood, divergence) / math.log(2)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """KL divergence from the first diagonal Gaussian to the second, per value, in nats."""
    return 0.5 * (
        other_log_variance
        - log_variance
        - 1
        + torch.exp(log_variance - other_log_variance)
        + (mean - other_mean).square() * torch.exp(-other_log_variance)
    )


def discretised_log_likelihood(value: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log probability of the bin of width 2/255 around each value, in nats.

    The outermost bins (|value| > 0.999) reach to infinity. The cumulative distribution is the
    tanh approximation of the original code, so that losses agree with published runs.
    """
    inverse = torch.exp(-log_deviation)
    upper = _approximate_normal_cdf(inverse * (value - mean + 1 / 255))
    lower = _approximate_normal_cdf(inverse * (value - mean - 1 / 255))
    probability = torch.where(
        value < -0.999, upper, torch.where(value > 0.999, 1 - lower, upper - lower)
    )
    return probability.clamp_min(1e-12).log()


def _approximate_normal_cdf(value: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))


def _mean_of_items(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)
