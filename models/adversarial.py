"""What generator and discriminator play for: losses, gradient penalty, strength of augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.augmentation import Augmentation


def generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(-logits): the non-saturating loss. Logits of generated clips (B,) -> ()."""
    return F.softplus(-fake.float()).mean()


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean softplus(fake) + mean softplus(-real). Logits (B,) each -> ()."""
    return F.softplus(fake.float()).mean() + F.softplus(-real.float()).mean()


def gradient_penalty(logits: Tensor, videos: Tensor) -> Tensor:
    """|d logits / d videos|^2, averaged over the frames of a clip; can be differentiated again.

    Inputs:  logits (B,), videos (B, F, ...) that they were computed from
    Output:  (B,), at least float32
    """
    with torch.autocast(videos.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(logits.sum(), videos, create_graph=True)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        return gradient.square().flatten(2).sum(2).mean(1)


def r1_loss(
    discriminator: Callable[[Tensor, Tensor], Tensor], videos: Tensor, times: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """gamma / 2 times the mean penalty of real clips (R1, arXiv 1801.04406), and their logits.

    The discriminator runs eagerly even where it was compiled, for compiled code cannot be
    differentiated twice. Parameters that no gradient of the logits depends on, such as the last
    bias, get a gradient of zero, for distributed training waits for all.

    Inputs:   real clips (B, F, 3, H, W) before augmentation, their times (B, F)
    Outputs:  loss (), logits (B,) detached
    """
    videos = videos.detach().requires_grad_()
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        logits = discriminator(videos, times)
        penalty = gradient_penalty(logits, videos)
    return gamma / 2 * penalty.mean() + 0 * logits.sum(), logits.detach()


@torch.no_grad()
def adapt_strength(
    augmentation: Augmentation, clips: int, *, due: bool, target: float = 0.6, speed: int = 500_000
) -> Tensor:
    """Augment more where a discriminator is surer of real clips than wanted, and less otherwise.

    A discriminator that memorises the real clips gives nearly all of them a logit above 0. When
    it is `due`, every few steps, the strength moves by (clips since then) / `speed` towards the
    `target`, stays between 0 and 1, and counting starts again. Source: arXiv 2006.06676.

    Inputs:  the augmentation, to which `record` told the logits of real clips; the number of
             clips of this step; the mean sign wanted, from -1 to 1; the clips in which the
             strength may rise from 0 to 1
    Output:  the mean sign of the logits of real clips since counting started, (); NaN without any
    """
    augmentation.clips += clips
    sign = augmentation.sign_sum / augmentation.sign_count
    if due:
        direction = (sign - target).sign().nan_to_num()
        augmentation.strength += direction * augmentation.clips / speed
        augmentation.strength.clamp_(0, 1)
        for counted in (augmentation.sign_sum, augmentation.sign_count, augmentation.clips):
            counted.zero_()
    return sign
