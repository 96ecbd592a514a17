"""Stage 2 of LVDM (arXiv 2211.13221): diffusion of the latents of short clips.

The video autoencoder of stage 1 (`lvdm_autoencoder`) is frozen. What is learned is the noise in
its latents, brought to mean 0 and deviation 1, under an absolute error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import SamplingConfig, require
from diffusion.extension import WindowNoise, Windows, extended
from diffusion.samplers import Denoise
from models.interface import (
    Batch,
    Loss,
    Networks,
    Phase,
    Progress,
    VideoNoise,
)
from models.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    LatentDiffusionSampling,
)


@dataclass
class LvdmConfig(LatentDiffusionConfig):
    pass


@dataclass
class LvdmSampling(LatentDiffusionSampling):
    # Of videos of more frames than a clip (frames=N), made by windows that overlap:
    overlap: int | None = None  # latent frames of a window that are of the one before; none: half
    # Steps, at each noise level, that bring a window's first frames closer to what is known of
    # them, and the others along; each is a backward pass. 0 replaces the known frames alone.
    corrections: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.corrections >= 0, f"sampling.corrections: 0 or more, got {self.corrections}")


class Lvdm(LatentDiffusion):
    Config = LvdmConfig
    Sampling = LvdmSampling
    config: LvdmConfig

    def build_networks(self) -> dict[str, nn.Module]:
        return {"denoiser": self.build_denoiser(self.latents.frames)}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("denoiser", self.noise_loss)]

    def noise_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Mean absolute error of the predicted noise (or velocity)."""
        clean = self.encode(networks["denoiser"], batch.videos)
        level, noise = self.draw_levels(clean), torch.randn_like(clean)
        predicted = networks["denoiser"](self.schedule.add_noise(clean, noise, level), level)
        return Loss((self.target(clean, noise, level) - predicted.float()).abs().mean())

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        assert isinstance(settings, LvdmSampling)
        denoiser = self.checked(networks["denoiser"])
        frames = frames or self.shape.frames
        grid, windows = self.grid(settings, self.latents.frames), self.windows(settings, frames)

        def denoise() -> Denoise:
            return lambda noisy, timestep: _with_least_variance(
                self.as_noise(denoiser(noisy, timestep), noisy, timestep)
            )

        pieces = extended(
            settings.function,
            settings.levels(self.schedule),
            denoise,
            WindowNoise(lambda: noise.draw(*grid), windows),
            settings.corrections,
            progress or (lambda done, total: None),
        )
        return self.decode(denoiser, torch.cat(list(pieces), dim=1), frames)

    def seams(self, settings: SamplingConfig, frames: int | None = None) -> list[int]:
        assert isinstance(settings, LvdmSampling)
        frames, time = frames or self.shape.frames, self.codec.factors[0]
        return [time * seam for seam in self.windows(settings, frames).seams]

    def windows(self, settings: LvdmSampling, frames: int) -> Windows:
        """The windows, in latent frames, of a video of so many frames."""
        length, needed = self.latents.frames, -(-frames // self.codec.factors[0])
        overlap = max(1, length // 2) if settings.overlap is None else settings.overlap
        if needed > length:
            require(
                length > 1,
                f"frames: clips of one latent frame cannot be gone on from; this model makes "
                f"videos of at most {self.shape.frames} frames, got {frames}",
            )
            require(
                1 <= overlap < length,
                f"sampling.overlap: from 1 to {length - 1} latent frames of the {length} of a "
                f"clip, got {overlap}",
            )
        return Windows(length, min(overlap, length - 1), max(needed, length))


def _with_least_variance(noise: Tensor) -> Tensor:
    """Predicted noise with the interpolation -1 beside it: the variance of the posterior."""
    return torch.cat([noise, torch.full_like(noise, -1)], dim=2)


METHOD = Lvdm
