"""The mapping network of StyleGAN2 (arXiv 1912.04958): noise to latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.equalised import EqualisedLinear, normalise_second_moment

LEARNING_RATE = 0.01  # of the layers, relative to the optimiser's
MOMENTUM = 0.995  # of the running mean, per batch


class MappingNetwork(nn.Module):
    """Noise, brought to a second moment of 1, through linear layers with rectifiers.

    In training mode every call updates `w_avg`, the running mean of the outputs; the calls of one
    batch that comes in rounds count as one, see `follow_rounds`. Outputs can be drawn towards it,
    which trades variety for typical pictures.

    Letters:  B clips, Z noise width, W latent width
    Inputs:   noise (B, Z) float32; truncation: 1 leaves latents as they are, 0 makes all the mean
    Output:   (B, W) float32, whatever autocast says
    """

    w_avg: Tensor

    def __init__(self, noise_width: int, width: int, layers: int = 2) -> None:
        super().__init__()
        self.depth = layers
        for index in range(layers):
            given = width if index else noise_width
            layer = EqualisedLinear(given, width, activated=True, learning_rate=LEARNING_RATE)
            self.add_module(f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros(width))
        self.momentum = MOMENTUM  # of a call

    def follow_rounds(self, rounds: int) -> None:
        """Let `w_avg` move in so many calls as far as in one, for a batch given in rounds."""
        self.momentum = MOMENTUM ** (1 / rounds)

    def forward(self, noise: Tensor, truncation: float = 1.0) -> Tensor:
        with torch.autocast(noise.device.type, enabled=False):
            latents = normalise_second_moment(noise)
            for index in range(self.depth):
                latents = self.get_submodule(f"fc{index}")(latents)
            if self.training:
                with torch.no_grad():
                    self.w_avg.lerp_(latents.mean(dim=0), 1 - self.momentum)
            return latents if truncation == 1 else torch.lerp(self.w_avg, latents, truncation)
