"""Stage 1 of LVDM (arXiv 2211.13221): a video autoencoder with a perceptual and a patch GAN loss.

Stage 2 (`lvdm`) learns to generate its latents. By default the posterior is not regularised
(`kl_weight: 0`), so latents have any mean and scale, which stage 2 measures.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from configs.schema import MethodConfig, SamplingConfig, TrainConfig, require
from configs.shapes import VideoShape
from models.backbones.patch_discriminator import PatchDiscriminator
from models.backbones.video_autoencoder import VideoAutoencoder, kl_divergence, stage_strides
from models.interface import (
    Batch,
    Loss,
    Method,
    Networks,
    Phase,
    Progress,
    VideoNoise,
)
from models.priors.perceptual import PerceptualConfig, build_perceptual

LARGEST_BALANCE = 1e4  # of the ratio of gradients, before `discriminator.weight`

logger = logging.getLogger(__name__)


@dataclass
class DiscriminatorConfig:
    """Settings of the patch discriminator on single frames."""

    weight: float = 0.5  # of its loss, relative to that of reconstruction; 0 never trains it
    start: int = 50_001  # the first training step that uses it
    width: int = 64  # channels after the first layer
    layers: int = 3  # that halve the image

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"method.discriminator.weight: 0 or more, got {self.weight}")
        require(self.start >= 0, f"method.discriminator.start: 0 or more, got {self.start}")
        for name in ("width", "layers"):
            value = getattr(self, name)
            require(value >= 1, f"method.discriminator.{name}: at least 1, got {value}")


@dataclass
class LvdmAutoencoderConfig(MethodConfig):
    width: int = 32  # channels at full size; each stage doubles them
    factors: list[int] = field(default_factory=lambda: [4, 8, 8])  # over (time, height, width)
    channels: int = 4  # of a latent cell
    groups: int = 32  # of the group norms; they divide 2 x width
    # Added to the log-variance of new networks. 0 is the published start, with as much noise as
    # signal in the latents; -6 starts with little, of which short trainings learn much sooner.
    initial_log_variance: float = 0.0
    kl_weight: float = 0.0  # of the posterior's divergence from a standard normal; 1e-6 is usual
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        for name in ("width", "channels", "groups"):
            value = getattr(self, name)
            require(value >= 1, f"method.{name}: at least 1, got {value}")
        require(
            2 * self.width % self.groups == 0,
            f"method.groups: they must divide twice method.width, got {self.groups} and "
            f"{self.width}",
        )
        require(self.kl_weight >= 0, f"method.kl_weight: 0 or more, got {self.kl_weight}")
        try:
            stage_strides(self.factors)
        except ValueError as error:
            raise ValueError(f"method.factors: {error}") from None


class LvdmAutoencoder(Method):
    Config = LvdmAutoencoderConfig
    sampled = ("autoencoder",)
    adjustable = frozenset(
        {
            "kl_weight",
            "perceptual.name",
            "perceptual.weight",
            "perceptual.weights",  # a file may move
            "perceptual.heads",
            "discriminator.weight",
            "discriminator.start",
        }
    )
    config: LvdmAutoencoderConfig

    def set_up(self) -> None:
        self.latents = self._latents()
        self.perceptual = (
            build_perceptual(self.config.perceptual, self.shape.height) if self.training else None
        )
        self._shown: Tensor | None = None  # clips (B, F, 3, H, W) that previews reconstruct

    @classmethod
    def without_files(cls, config: MethodConfig) -> MethodConfig:
        assert isinstance(config, LvdmAutoencoderConfig)
        return replace(config, perceptual=PerceptualConfig(name="none"))

    def build_networks(self) -> dict[str, nn.Module]:
        autoencoder = self._autoencoder()
        autoencoder.shift_log_variance(self.config.initial_log_variance)
        networks: dict[str, nn.Module] = {"autoencoder": autoencoder}
        if self.training:
            discriminator = self.config.discriminator
            networks["discriminator"] = PatchDiscriminator(
                discriminator.width, discriminator.layers
            )
        return networks

    def frozen_networks(self) -> dict[str, nn.Module]:
        return {"perceptual": self.perceptual} if self.perceptual else {}

    def build_optimizer(self, network: nn.Module, settings: TrainConfig) -> Optimizer:
        """Adam without weight decay, as published."""
        if isinstance(network, VideoAutoencoder):
            self._warn_of_late_start(settings.steps)
        return Adam(
            network.parameters(),
            lr=settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            fused=next(network.parameters()).device.type in ("cpu", "cuda"),
        )

    def phases(self, step: int) -> Sequence[Phase]:
        """The autoencoder; from the discriminator's start on it too, on new reconstructions."""
        discriminator = self.config.discriminator
        if discriminator.weight == 0 or step < discriminator.start:
            return [Phase("autoencoder", self.reconstruction_loss)]
        return [
            Phase("autoencoder", self.adversarial_reconstruction_loss),
            Phase("discriminator", self.discriminator_loss),
        ]

    def reconstruction_loss(self, networks: Networks, batch: Batch) -> Loss:
        """C H W (mean absolute error + perceptual distance), the mean over clips of what a frame
        costs, + kl_weight * divergence of a clip's posterior. Frames are compared one by one."""
        return self._reconstruct(networks, batch)[0]

    def adversarial_reconstruction_loss(self, networks: Networks, batch: Batch) -> Loss:
        """`reconstruction_loss` + weight * balance * -mean logit of the reconstructed frames.

        The balance is the ratio of both losses' gradients at the last convolution, at most 1e4.
        """
        loss, images, likelihood, divergence = self._reconstruct(networks, batch)
        pretended = -networks["discriminator"](images).float().mean()
        # Both parts go backward to the images once; from there on they are balanced and summed.
        wishes = [torch.autograd.grad(each, images)[0] for each in (likelihood, pretended)]
        ratio = balance(images, wishes[0], wishes[1], _plain(networks["autoencoder"]).last_weight)
        weight = self.config.discriminator.weight * ratio
        carrier = (images * (wishes[0] + weight * wishes[1])).sum() + divergence
        value = loss.total.detach() + weight * pretended.detach()
        parts = {**loss.parts, "adversarial": pretended.detach(), "balance": weight}
        return Loss(carrier + (value - carrier).detach(), parts)

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Hinge loss of real frames against reconstructions, which pass separately, for each
        batch norm sees frames of one kind."""
        videos = batch.videos.transpose(1, 2)
        with torch.no_grad():
            output, _ = networks["autoencoder"](videos)
        real = networks["discriminator"](_frames(videos)).float()
        fake = networks["discriminator"](_frames(output.float())).float()
        loss = hinge_loss(real, fake)
        return Loss(loss, {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()})

    def preview(
        self, networks: Networks, noise: VideoNoise, progress: Progress | None = None
    ) -> Tensor:
        """Clips of the training and below each its reconstruction, at most len(noise) videos:
        (N, F, 3, H, W); samples, as long as there was no training step."""
        if self._shown is None:
            return self.sample(networks, noise, self.preview_sampling(), progress)
        clips = self._shown[: max(1, len(noise) // 2)]
        network = networks["autoencoder"]
        assert isinstance(network, VideoAutoencoder)
        mean = network.encode(clips.transpose(1, 2)).chunk(2, dim=1)[0]
        decoded = network.decode(mean).transpose(1, 2)
        if progress:
            progress(1, 1)
        return torch.stack([clips, decoded.float().clamp(-1, 1)], dim=1).flatten(0, 1)

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Decode standard normal latents: a check of the decoder, not a generator."""
        self.require_clip_frames(frames)
        network = networks["autoencoder"]
        assert isinstance(network, VideoAutoencoder)
        latents = noise.draw(*self.latents.batch(1)[1:]).transpose(1, 2)
        videos = network.decode(latents).transpose(1, 2)
        if progress:
            progress(1, 1)
        return videos.float().clamp(-1, 1)

    def _reconstruct(self, networks: Networks, batch: Batch) -> tuple[Loss, Tensor, Tensor, Tensor]:
        """The loss without the discriminator; reconstructed frames (N, 3, H, W); both parts of
        that loss, what the frames cost and what the posteriors cost."""
        if self._shown is None:
            self._shown = batch.videos[:2].detach().clone()
        videos = batch.videos.transpose(1, 2)
        output, moments = networks["autoencoder"](videos)
        images, targets = _frames(output.float()), _frames(videos)
        error = (images - targets).abs().mean()
        distance = error
        parts = {"l1": error, "psnr": psnr(images, targets)}
        if self.perceptual is not None:
            perceptual = self.perceptual(images, targets).mean()
            distance = error + self.config.perceptual.weight * perceptual
            parts["perceptual"] = perceptual
        likelihood = targets[0].numel() * distance
        parts["kl"] = kl_divergence(moments).mean()
        divergence = self.config.kl_weight * parts["kl"]
        detached = {name: part.detach() for name, part in parts.items()}
        return Loss(likelihood + divergence, detached), images, likelihood, divergence

    def _autoencoder(self) -> VideoAutoencoder:
        config = self.config
        return VideoAutoencoder(config.width, config.factors, config.channels, config.groups)

    def _latents(self) -> VideoShape:
        with torch.device("meta"):
            network = self._autoencoder()
        shape = self.shape
        sizes = network.latent_sizes(shape.frames, shape.height, shape.width)
        return VideoShape(sizes[0], self.config.channels, sizes[1], sizes[2])

    def _warn_of_late_start(self, steps: int) -> None:
        discriminator = self.config.discriminator
        if discriminator.weight and discriminator.start >= steps:
            logger.warning(
                "method.discriminator.start: %d is not reached in train.steps=%d, so the "
                "discriminator is never trained; lower it, or set method.discriminator.weight=0",
                discriminator.start,
                steps,
            )


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean relu(1 - real) + mean relu(1 + fake), of logits of any shape: ()."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def balance(output: Tensor, wish: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """How much larger one gradient is than another at the weight tensor that makes an output.

    Inputs:  wish, other, gradients of two losses by the output, of its shape
    Output:  the ratio of their Euclidean norms at the weight, at most 1e4, detached: ()
    """
    norms = [
        torch.autograd.grad(output, weight, each, retain_graph=True)[0].float().norm()
        for each in (wish, other)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, LARGEST_BALANCE).detach()


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all pixels, images clamped to [-1, 1]: ()."""
    return -10 * torch.log10((images.detach().clamp(-1, 1) - targets).square().mean() / 4)


def _frames(videos: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B * T, 3, H, W)"""
    return videos.transpose(1, 2).flatten(0, 1)


def _plain(network: nn.Module) -> VideoAutoencoder:
    """The network itself, without what makes it parallel."""
    inner = getattr(network, "module", network)
    assert isinstance(inner, VideoAutoencoder)
    return inner


METHOD = LvdmAutoencoder
