"""What diffusion models of a video autoencoder's latents share: the frozen first stage, the scale
of its latents, the noise schedule, the settings of the denoiser, and the choice of samplers.

`methods/lvdm` learns short clips with it, `methods/lvdm_long` the hierarchy for long videos.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from torch import Tensor, nn

from configs.schema import MethodConfig, SamplingConfig, require
from diffusion.samplers import SAMPLERS, SOLVERS, Sampler, SamplerName, sample_ddim
from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, leading_timesteps, log_snr_timesteps
from models.backbones.latent_denoiser import LatentDenoiser
from models.codecs.video import UNTRAINED, load_video_autoencoder
from models.interface import (
    Batch,
    Method,
    Networks,
)

DECODED_AT_ONCE = 4  # latent frames, where the autoencoder does not say how long its clips were


@dataclass
class UnetConfig:
    """Sizes of the denoiser."""

    width: int = 256  # channels at the full size of the latents
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 3, 4])  # of it, by size
    blocks: int = 3  # residual blocks of each size
    attention_at: list[int] = field(default_factory=lambda: [8, 4, 2])  # reductions of the size
    heads: int = 4  # of the attention
    groups: int = 32  # of the group norms; they divide every width
    # How the keys of attention over time know distances: as the released code computes it, or as
    # relative attention is published. Imported weights need `reference`.
    positions: Literal["reference", "shaw"] = "reference"
    checkpointing: bool = True  # residual blocks compute twice, for less memory in training

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "heads", "groups"):
            value = getattr(self, name)
            require(value >= 1, f"method.unet.{name}: at least 1, got {value}")
        require(
            bool(self.multipliers) and all(m >= 1 for m in self.multipliers),
            f"method.unet.multipliers: one or more numbers from 1 on, got {self.multipliers}",
        )
        require(
            all(at >= 1 and at & (at - 1) == 0 for at in self.attention_at),
            f"method.unet.attention_at: reductions 1, 2, 4 and so on, got {self.attention_at}",
        )
        for multiplier in self.multipliers:
            width = multiplier * self.width
            require(
                width % self.groups == 0 and width % self.heads == 0,
                f"method.unet: a width of {width} cannot be split into {self.groups} groups and "
                f"{self.heads} heads; choose another width, groups or heads",
            )

    @property
    def reduction(self) -> int:
        """What height and width of the latents must divide by."""
        return 2 ** (len(self.multipliers) - 1)

    def build(
        self, channels: int, sha256: str, reach: int, *, masked: bool = False, levels: int = 0
    ) -> LatentDenoiser:
        """A new network for clips of `reach` latent frames."""
        return LatentDenoiser(
            channels,
            sha256,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention_at=self.attention_at,
            heads=self.heads,
            reach=reach,
            groups=self.groups,
            form=self.positions,
            masked=masked,
            levels=levels,
            checkpointing=self.checkpointing,
        )


@dataclass
class LatentDiffusionConfig(MethodConfig):
    # Stage 1: run folder, checkpoint or exported weights. `untrained` is small and random.
    autoencoder: str | None = None
    autoencoder_average: int = 0  # which of a checkpoint's moving averages; -1 the raw weights
    unet: UnetConfig = field(default_factory=UnetConfig)
    # What makes the latents mean 0 and deviation 1: scale * (latents + shift). None: measured on
    # the training data before the first step.
    latent_scale: float | None = None
    latent_shift: float | None = None
    calibration: int = 300  # micro batches, on each process, that are measured
    timesteps: Literal["uniform", "stratified"] = "uniform"  # of the items of a micro batch
    # What the denoiser puts out. From noise, as published, the clean latents follow at the noisiest
    # levels with errors 15 times enlarged: short trainings sample overdrawn colours. The velocity
    # (arXiv 2202.00512, appendix D) knows no such levels.
    prediction: Literal["noise", "velocity"] = "noise"

    def __post_init__(self) -> None:
        require(
            (self.latent_scale is None) == (self.latent_shift is None),
            "method.latent_scale and method.latent_shift: give both or none",
        )
        require(
            self.latent_scale is None or self.latent_scale > 0,
            f"method.latent_scale: above 0, got {self.latent_scale}",
        )
        require(
            self.calibration >= 1, f"method.calibration: at least 1 batch, got {self.calibration}"
        )


@dataclass
class LatentDiffusionSampling(SamplingConfig):
    sampler: SamplerName = "ddpm"
    steps: int = 1000
    eta: float = 1.0  # of the sampler ddim: 0 adds no noise, 1 as much as ddpm
    # Side of the latent grid; none: that of the training clips. The original sampled its networks
    # for 128 x 128 pixels at 32, which makes videos of 256 x 256.
    latent_size: int | None = None

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"sampling.steps: at least 1, got {self.steps}")
        require(0 <= self.eta <= 1, f"sampling.eta: from 0 to 1, got {self.eta}")
        require(
            self.latent_size is None or self.latent_size >= 1,
            f"sampling.latent_size: at least 1 cell, got {self.latent_size}",
        )

    def levels(self, full: NoiseSchedule) -> NoiseSchedule:
        """The levels that the sampler visits.

        DDIM goes over every k-th one and ends at the first, as the original does; the solvers go
        by the signal-to-noise ratio.
        """
        if self.sampler in SOLVERS:
            return full.respaced(log_snr_timesteps(full.log_snr, self.steps))
        if self.sampler == "ddim":
            kept = leading_timesteps(len(full), self.steps)
            return full.respaced(kept, float(full.signal_squared[0]) if kept[0] else 1.0)
        return full.respaced(fractional_timesteps(len(full), self.steps))

    @property
    def function(self) -> Sampler:
        """The sampler itself."""
        if self.sampler == "ddim":
            return functools.partial(sample_ddim, eta=self.eta)
        return SAMPLERS[self.sampler]


class LatentDiffusion(Method):
    """What the short and the long models share: the autoencoder, the latents, the schedule."""

    adjustable = frozenset(
        {
            "autoencoder",  # a folder may move; the weights are compared
            "unet.checkpointing",
            "calibration",
            "timesteps",
        }
    )
    config: LatentDiffusionConfig

    def set_up(self) -> None:
        stage_1 = self.config.autoencoder
        if not stage_1:
            raise ValueError(
                "method.autoencoder: name stage 1, the run folder (or weights) of a training with "
                "configs/*/lvdm_autoencoder.yaml"
            )
        self.codec = load_video_autoencoder(stage_1, self.config.autoencoder_average)
        self.latents = self.codec.latents(self.shape)
        self.check_grid(self.latents.height, self.latents.width)
        self.schedule = NoiseSchedule.scaled_linear()
        self._compared: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # whose autoencoder is ours

    @classmethod
    def without_files(cls, config: MethodConfig) -> MethodConfig:
        """With an untrained autoencoder in place of stage 1, of as many channels as published."""
        assert isinstance(config, LatentDiffusionConfig)
        return replace(config, autoencoder=UNTRAINED)

    def check_grid(self, height: int, width: int) -> None:
        """Raise ValueError unless the denoiser can halve such latents as often as it does."""
        reduction, factor = self.config.unet.reduction, self.codec.factors[1]
        require(
            height % reduction == 0 and width % reduction == 0,
            f"method.unet.multipliers: latents of {height}x{width} cells cannot be halved "
            f"{len(self.config.unet.multipliers) - 1} times; choose a size of frames that is a "
            f"multiple of {reduction * factor} pixels, or fewer multipliers",
        )

    def build_denoiser(self, reach: int, *, masked: bool = False, levels: int = 0) -> nn.Module:
        """A new network that knows its autoencoder and, where they are given, its constants."""
        network = self.config.unet.build(
            self.codec.channels, self.codec.sha256, reach, masked=masked, levels=levels
        )
        if self.config.latent_scale is not None and self.config.latent_shift is not None:
            network.set_scale(self.config.latent_scale, self.config.latent_shift)
        return network

    def frozen_networks(self) -> dict[str, nn.Module]:
        return {"codec": self.codec}

    @property
    def calibration(self) -> int:
        return 0 if self.config.latent_scale is not None else self.config.calibration

    def calibrate(self, networks: Networks, batches: Iterable[Batch]) -> None:
        """Measure mean and spread of the latents of whole clips."""
        first, *others = [cast(LatentDenoiser, network) for network in networks.values()]
        first.measure(self.codec.encode(batch.videos) for batch in batches)
        for other in others:
            other.latent_moments.copy_(first.latent_moments)

    def encode(self, network: nn.Module, videos: Tensor) -> Tensor:
        """Normalised latents of clips, drawn from the posterior: (B, F, 3, H, W) to
        (B, f, C, h, w)."""
        return self.checked(network).normalise(self.codec.encode(videos))

    def checked(self, network: nn.Module) -> LatentDenoiser:
        """The network without a wrapper for several processes.

        Raises ValueError when it was trained on latents of another autoencoder.
        """
        denoiser = cast(LatentDenoiser, getattr(network, "module", network))
        if denoiser not in self._compared:
            recorded, found = denoiser.recorded_sha256, self.codec.sha256
            require(
                recorded == found,
                f"method.autoencoder: {self.config.autoencoder} has other weights (SHA-256 "
                f"{found[:12]}...) than the one this model was trained with ({recorded[:12]}...); "
                f"name that one, as a checkpoint file if its run went on",
            )
            self._compared.add(denoiser)
        return denoiser

    def draw_levels(self, clean: Tensor) -> Tensor:
        """A noise level for each clip: (B,)."""
        return self.schedule.draw_levels(
            len(clean), clean.device, stratified=self.config.timesteps == "stratified"
        )

    def target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the denoiser should put out for clean latents (B, ...) noised at a level (B,)."""
        if self.config.prediction == "noise":
            return noise
        return self.schedule.velocity(clean, noise, level)

    def as_noise(self, output: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The noise in noisy latents, from the denoiser's output for them."""
        output = output.float()
        if self.config.prediction == "noise":
            return output
        return self.schedule.noise_of_velocity(noisy, output, level)

    def grid(self, settings: LatentDiffusionSampling, frames: int) -> tuple[int, int, int, int]:
        """(F, C, h, w) of the latents to sample. Raises ValueError for a size that cannot be."""
        height, width = self.latents.height, self.latents.width
        if settings.latent_size is not None:
            height = width = settings.latent_size
            reduction = self.config.unet.reduction
            require(
                height % reduction == 0,
                f"sampling.latent_size: a multiple of {reduction} cells, got {height}",
            )
        return frames, self.latents.channels, height, width

    def decode(self, denoiser: LatentDenoiser, latents: Tensor, frames: int) -> Tensor:
        """The first `frames` frames of normalised latents, in windows as long as the clips that
        the autoencoder was trained on."""
        trained = self.codec.shape
        window = trained.frames // self.codec.factors[0] if trained else DECODED_AT_ONCE
        restored = denoiser.restore(latents)
        return self.codec.decode(restored, window, overlap=window // 2)[:, :frames]

    def preview_sampling(self) -> SamplingConfig:
        return self.Sampling(sampler="unipc3", steps=12)  # type: ignore[call-arg]
