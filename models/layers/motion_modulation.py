"""Filters that follow the motion of each frame: the motion styles of MoStGAN-V (arXiv 2304.02777).

Every image has a few motion styles. A layer turns each into a small tensor over input channels and
filter taps; every filter attends to these, and the mixture scales its weights one by one.

Letters:  N images, J motion styles of an image, D their width; O and I channels out and in
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers.equalised import GAIN, SLOPE, EqualisedLinear
from models.layers.modulated import FilterModulation

# What the changed filters are used for. Authors describe `paper`; their code runs it in float32
# evaluation alone. In training it convolves with the unchanged filters, and motion changes only
# the scale of each output channel (`demod`). With the half precision of their configurations it
# also brings filters and styles to a maximum near 1 first, which makes the attention nearly
# uniform, and does so in sampling too (`released`): presumably published results come from that.
# Here a mode means the same in training and sampling, in every precision.
Mode = Literal["paper", "demod", "released"]
MODES = get_args(Mode)

LEAST = 1e-8  # the smallest divisor of a normalisation
CHUNK = 2**25  # weights of changed filters in memory at once, 128 MiB in float32
CPU_CHUNK = 2**21  # what stays near a processor's caches takes half the time there


class MotionStyles(nn.ModuleList):
    """The motion styles of every image, from its content and its motion.

    Inputs:  latents (N, W) and motion (N, V), float32
    Output:  (N, J, D) float32
    """

    def __init__(self, latent_width: int, motion_width: int, count: int, width: int) -> None:
        hidden = count * latent_width
        first = EqualisedLinear(latent_width + motion_width, hidden, activated=True)
        super().__init__([first, EqualisedLinear(hidden, count * width)])
        self.count = count

    def forward(self, latents: Tensor, motion: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            values = torch.cat([latents.float(), motion.float()], dim=1)
            for layer in self:
                values = layer(values)
            return values.unflatten(1, (self.count, -1))


class MotionModulation(FilterModulation):
    """How motion styles change the filters of one layer of 3x3 filters.

    A bias-free projection with a rectifier splits each style into a vector over the input
    channels and one over the rows and columns of the taps; M_j is their outer product. With the
    weights V = W s of a filter under the style s of its image,

        R = sum_j softmax_j(<V, M_j> / sqrt(9 I)) M_j,    changed V = V (1 + leaky(R / max |R|)),

    the maximum taken over the filters of an image. See `Mode` for what becomes of them.
    """

    def __init__(self, inputs: int, width: int, mode: Mode) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown motion mode {mode!r}; choose from {', '.join(MODES)}")
        self.inputs, self.mode = inputs, mode
        self.per_image = mode == "paper"
        self.conv0 = Projection(width, inputs + 6)

    def demodulation(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        scale = None
        if self.mode == "released":
            weight, styles, scale = normalise(weight, styles)
        shares, tensors = self.attend(weight, styles, motion)
        energies = map_images(changed_energies, weight, styles, shares, tensors)
        demodulation = torch.rsqrt(energies + 1e-8)
        return demodulation if scale is None else demodulation * scale

    def filters(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        shares, tensors = self.attend(weight, styles, motion)
        filters = map_images(changed_filters, weight, styles, shares, tensors)
        return filters.view(len(styles), *weight.shape)

    def attend(self, weight: Tensor, styles: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """The shares (N, O, J) of the motion tensors in each filter, and these (N, J, 9 I)."""
        tensors = self.tensors(motion)
        return self.scores(weight, styles, tensors).softmax(-1), tensors

    def scores(self, weight: Tensor, styles: Tensor, tensors: Tensor) -> Tensor:
        """<V_o, M_j> / sqrt(9 I), of every filter with every motion tensor: (N, O, J)."""
        taps = weight[0].numel()
        styled = tensors * styles.repeat_interleave(taps // self.inputs, dim=1)[:, None]
        return (styled @ weight.flatten(1).T).transpose(1, 2) / math.sqrt(taps)

    def tensors(self, motion: Tensor) -> Tensor:
        """The tensors M of motion styles (N, J, D), taps last: (N, J, 9 I)."""
        channels, rows, columns = self.conv0(motion).split([self.inputs, 3, 3], dim=-1)
        taps = rows[..., :, None] * columns[..., None, :]
        return (channels[..., None, None] * taps[:, :, None]).flatten(2)

    def likeness(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        """How alike the attention to any two motion styles is, 0..1: the mean squared cosine.

        Scores of one motion style, over all filters, are one vector; all styles of all images
        are compared, themselves included. Their lengths count as constants for the gradient.
        """
        if self.mode == "released":
            weight, styles, _ = normalise(weight, styles)
        scores = self.scores(weight, styles, self.tensors(motion)).transpose(1, 2).flatten(0, 1)
        scores = scores / (scores.detach().norm(dim=1, keepdim=True) + 1e-6)
        # The O x O products have the same sum of squares as the products of all pairs.
        return (scores.T @ scores).square().sum() / len(scores) ** 2


class Projection(nn.Module):
    """A bias-free linear map with a rectifier, stored as a 1x1 convolution: (..., D) -> (..., E)"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = GAIN / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        return F.leaky_relu(F.linear(vectors * self.scale, self.weight.flatten(1)), SLOPE)


def normalise(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Filters and styles brought to a maximum of 1 / sqrt(9 I) and of 1, as for half precision.

    Inputs:  weight (O, I, 3, 3), styles (N, I)
    Outputs: both normalised, and the factors (N, O) between a convolution with these and one
             with the given ones
    """
    taps = weight[0].numel()
    weight_scale = 1 / (weight.abs().amax(dim=(1, 2, 3)).clamp(min=LEAST) * math.sqrt(taps))
    style_scale = 1 / styles.abs().amax(dim=1, keepdim=True).clamp(min=LEAST)
    scaled = weight * weight_scale[:, None, None, None]
    return scaled, styles * style_scale, style_scale * weight_scale


def factors(shares: Tensor, tensors: Tensor) -> Tensor:
    """What multiplies each weight: 1 + leaky(R / max |R|), between 0.8 and 2.

    Inputs:  shares (N, O, J), tensors (N, J, 9 I)
    Output:  (N, O, 9 I)
    """
    mixtures = shares @ tensors
    least, most = mixtures.flatten(1).aminmax(dim=1)
    greatest = torch.maximum(most, -least).clamp(min=LEAST)
    return F.leaky_relu(mixtures, SLOPE) * (1 / greatest)[:, None, None] + 1


def changed_energies(weight: Tensor, styles: Tensor, shares: Tensor, tensors: Tensor) -> Tensor:
    """The sums of squares of all changed filters: (N, O)."""
    changed = factors(shares, tensors) * weight.flatten(1)
    by_channel = changed.square().unflatten(2, (styles.shape[1], -1)).sum(dim=3)
    return (by_channel @ styles.square()[:, :, None]).squeeze(2)


def changed_filters(weight: Tensor, styles: Tensor, shares: Tensor, tensors: Tensor) -> Tensor:
    """All changed filters, brought to a sum of squares of 1: (N, O, 9 I)."""
    styled = weight.flatten(2) * styles[:, None, :, None]
    changed = factors(shares, tensors) * styled.flatten(2)
    return changed * torch.rsqrt(changed.square().sum(dim=2, keepdim=True) + 1e-8)


def map_images(
    function: Callable[..., Tensor], weight: Tensor, styles: Tensor, shares: Tensor, tensors: Tensor
) -> Tensor:
    """`function` of a few images at a time, computed again for the gradient instead of kept.

    The weights of filters of all images, in every step of their change, would be most of the
    generator's memory: (N, O, I, 3, 3) of one layer are 1.1 GiB for 8 clips of 16 frames.
    """
    limit = CPU_CHUNK if weight.device.type == "cpu" else CHUNK
    count = max(1, limit // weight.numel())
    chunks = zip(*(each.split(count) for each in (styles, shares, tensors)), strict=True)
    if torch.is_grad_enabled():
        results = [
            checkpoint(function, weight, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]
    else:
        results = [function(weight, *chunk) for chunk in chunks]
    return torch.cat(results)
