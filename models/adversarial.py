"""What generator and discriminator play for: losses, gradient penalty, strength of augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(-logits): the non-saturating loss. Logits of generated clips (B,) -> ()."""
    return F.softplus(-fake.float()).mean()


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean softplus(fake) + mean softplus(-real). Logits (B,) each -> ()."""
    return F.softplus(fake.float()).mean() + F.softplus(-real.float()).mean()


def gradient_penalty(logits: Tensor, videos: Tensor) -> Tensor:
    """|d logits / d videos|^2, averaged over the frames of a clip; can be differentiated again.

    Inputs:  logits (B,), videos (B, F, ...) that they were computed from
    Output:  (B,) float32
    """
    with torch.autocast(videos.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(logits.sum(), videos, create_graph=True)
        return gradient.float().square().flatten(2).sum(2).mean(1)


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
