"""StyleGAN-V (CVPR 2022, arXiv 2112.14683): a generator of video in continuous time.

Its discriminator sees whole clips and how far apart their frames are. Defaults are those of the
training on endoscopy beside Endora (arXiv 2403.11050), without path lengths, style mixing and
noise inputs, as there; where that training slipped, the setting says what it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer

from configs.schema import MethodConfig, SamplingConfig, TrainConfig, require
from configs.shapes import FrameTimes, VideoShape
from models.adversarial import adapt_strength, discriminator_loss, generator_loss, r1_loss
from models.backbones.stylegan.discriminator import Discriminator, DiscriminatorSizes
from models.backbones.stylegan.generator import Generator, GeneratorSizes
from models.backbones.stylegan.motion import MotionSizes
from models.interface import (
    Batch,
    Loss,
    Method,
    Networks,
    Phase,
    Progress,
    VideoNoise,
)
from models.layers.augmentation import Augmentation
from models.layers.frame_times import draw_times

SMALLEST = 16  # pixels a side of a clip
LATEST = 2**20  # time of a sampled frame: there float32 tells an eighth of a unit apart
NO_TIMES = "clip.spacing: this method learns from frames at random times; set clip.spacing=random"


@dataclass
class MotionConfig:
    """The random motion of a video; see `models/backbones/stylegan/motion.py`."""

    width: int = 512  # of noise vectors and of motion codes
    kernel: int = 11  # noise vectors that each of the two convolutions over time sees
    anchor_distance: int = 16  # units of time from one motion code to the next
    periods: int = 256  # waves that describe a moment; twice as many channels
    shortest_period: float = 16.0  # units of time
    longest_period: float = 1024.0  # units of time

    def __post_init__(self) -> None:
        for name in ("width", "kernel", "anchor_distance"):
            value = getattr(self, name)
            require(value >= 1, f"method.motion.{name}: at least 1, got {value}")
        require(self.periods >= 2, f"method.motion.periods: at least 2, got {self.periods}")
        require(
            0 < self.shortest_period <= self.longest_period,
            f"method.motion.shortest_period: above 0 and at most longest_period "
            f"({self.longest_period}), got {self.shortest_period}",
        )

    @property
    def sizes(self) -> MotionSizes:
        """The same as the network wants it."""
        return MotionSizes(
            noise_width=self.width,
            code_width=self.width,
            kernel=self.kernel,
            anchor_distance=self.anchor_distance,
            periods=self.periods,
            shortest_period=self.shortest_period,
            longest_period=self.longest_period,
        )


@dataclass
class DiscriminatorConfig:
    """How a clip is judged."""

    joined_at: int = 16  # pixels: from maps of this side on, the frames of a clip are joined
    joined_divisor: int = 2  # of the width of each frame's maps where they are joined
    group: int = 4  # clips whose spread is one feature; must divide train.batch_size
    hidden: int = 512  # width of the last layer before the output
    conditioning_width: int = 512  # of what the gaps between the frames become
    frame_differences: bool = False  # judge differences of neighbouring frames too (MoStGAN-V)

    def __post_init__(self) -> None:
        for name in ("joined_divisor", "group", "hidden", "conditioning_width"):
            value = getattr(self, name)
            require(value >= 1, f"method.discriminator.{name}: at least 1, got {value}")


@dataclass
class PenaltyConfig:
    """R1: the squared gradient of the outputs on real clips, a mean over their frames."""

    weight: float = 0.2048  # gamma; the preset's rule 0.0002 size^2 / 16 clips; half of it acts
    every: int = 16  # steps; its gradient is multiplied by as many

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"method.penalty.weight: 0 or more, got {self.weight}")
        require(self.every >= 1, f"method.penalty.every: at least 1 step, got {self.every}")


@dataclass
class AugmentationConfig:
    """Adaptive discriminator augmentation (ADA, arXiv 2006.06676), one draw for each clip."""

    # bgc: pixel blits (flips, turns by 90 degrees, shifts), geometry and colour; bgc_noro:
    # without any rotation, as MoStGAN-V; none: the discriminator sees the clips as they are.
    transforms: Literal["bgc", "bgc_noro", "none"] = "bgc"
    # Mean sign of the outputs on real clips above which the discriminator is taken to memorise
    # them, and the strength rises.
    target: float = 0.6
    every: int = 4  # steps between changes of the strength
    # Clips in which the strength rises by 1 at most. The reference means 500,000; a slip in its
    # test for resumed runs makes that 100,000, which the published runs had.
    speed: int = 500_000

    def __post_init__(self) -> None:
        require(
            -1 <= self.target <= 1, f"method.augmentation.target: from -1 to 1, got {self.target}"
        )
        for name in ("every", "speed"):
            value = getattr(self, name)
            require(value >= 1, f"method.augmentation.{name}: at least 1, got {value}")


@dataclass
class StyleGANVConfig(MethodConfig):
    # Channels of maps of side r: channel_base / r, at most channel_max.
    channel_base: int = 16_384
    channel_max: int = 512
    latent: int = 512  # width of the random latent of a video's content, and of its style
    motion: MotionConfig = field(default_factory=MotionConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    # Steps between regularisations of the generator, of which none is left; the rescaling of its
    # optimiser is: learning rate x n / (n + 1), betas to that power. The reference: 4.
    lazy_steps: int = 4

    def __post_init__(self) -> None:
        for name in ("channel_base", "channel_max", "latent", "lazy_steps"):
            value = getattr(self, name)
            require(value >= 1, f"method.{name}: at least 1, got {value}")


@dataclass
class StyleGANVSampling(SamplingConfig):
    """Which videos to make. One unit of time is clip.frame_interval source frames."""

    # 1: as drawn; less pulls the content towards the mean, which is safer and less varied.
    truncation: float = 0.9
    content_seed: int | None = None  # all videos get the content of this seed's video
    motion_seed: int | None = None  # all videos get the motion of this seed's video
    time_offset: float = 0.0  # time of the first frame
    time_step: float = 1.0  # from frame to frame; 0.5 is slow motion, 2 twice as fast
    frame_batch: int = 16  # frames of each video made at a time; more takes more memory

    def __post_init__(self) -> None:
        require(
            0 <= self.truncation <= 2, f"sampling.truncation: from 0 to 2, got {self.truncation}"
        )
        require(
            self.time_offset >= 0,
            f"sampling.time_offset: 0 or later, for motion begins at time 0, "
            f"got {self.time_offset}",
        )
        require(self.time_step > 0, f"sampling.time_step: above 0, got {self.time_step}")
        require(self.frame_batch >= 1, f"sampling.frame_batch: at least 1, got {self.frame_batch}")


class StyleGANV(Method):
    Config = StyleGANVConfig
    Sampling = StyleGANVSampling
    sampled = ("generator",)
    spacing = "random"
    adjustable = frozenset(
        {
            "penalty.weight",
            "penalty.every",
            "augmentation.target",
            "augmentation.every",
            "augmentation.speed",
            "lazy_steps",
        }
    )
    config: StyleGANVConfig

    def set_up(self) -> None:
        check_sizes(self.shape, self.times, self.config)
        self.motion = self.config.motion.sizes

    def build_networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"generator": self.build_generator()}
        if self.training:
            networks["discriminator"] = self.build_discriminator()
        return networks

    def build_generator(self) -> Generator:
        """The generator of these settings."""
        return Generator(self.generator_sizes())

    def generator_sizes(self) -> GeneratorSizes:
        config = self.config
        return GeneratorSizes(
            resolution=self.shape.height,
            channel_base=config.channel_base,
            channel_max=config.channel_max,
            noise_width=config.latent,
            latent_width=config.latent,
            motion=self.motion,
        )

    def build_discriminator(self) -> Discriminator:
        """The discriminator of these settings, with its augmentation."""
        config = self.config
        sizes = DiscriminatorSizes(
            resolution=self.shape.height,
            frames=self.shape.frames,
            channel_base=config.channel_base,
            channel_max=config.channel_max,
            longest_video=self.times.longest_video,
            **vars(config.discriminator),
        )
        return Discriminator(sizes, self.build_augmentation())

    def build_augmentation(self) -> Augmentation | None:
        """What the discriminator puts before its eyes in training, or nothing."""
        transforms = self.config.augmentation.transforms
        return None if transforms == "none" else Augmentation(transforms)

    def build_optimizer(self, network: nn.Module, settings: TrainConfig) -> Optimizer:
        """Adam, rescaled for what is not computed at every step (arXiv 1912.04958, appendix B).

        Here the settings of the loop are known, and with them how many rounds make up a step.
        """
        check_batch(settings, self.config.discriminator)
        if isinstance(network, Generator):
            network.mapping.follow_rounds(settings.accumulation)
        discriminates = isinstance(network, Discriminator)
        every = self.config.penalty.every if discriminates else self.config.lazy_steps
        share = every / (every + 1)
        return Adam(
            network.parameters(),
            lr=settings.learning_rate * share,
            betas=(settings.betas[0] ** share, settings.betas[1] ** share),
            weight_decay=settings.weight_decay,
            fused=next(network.parameters()).device.type in ("cpu", "cuda"),
        )

    # ------------------------------------------------------------ training

    def phases(self, step: int) -> Sequence[Phase]:
        phases = [
            Phase("generator", self.generator_loss),
            Phase("discriminator", self.discriminator_loss),
        ]
        if step % self.config.penalty.every == 0:
            # Logged apart: at every 16th step it would hide the other loss of the discriminator.
            phases.append(Phase("discriminator", self.penalty_loss, name="penalty"))
        return phases

    def generator_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Generated clips are to pass for real ones."""
        latents, times, noise = self.draw_inputs(batch)
        videos = networks["generator"](latents, times, noise)
        return Loss(generator_loss(networks["discriminator"](videos, times)))

    def discriminator_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Real clips and generated ones are to be told apart."""
        latents, times, noise = self.draw_inputs(batch)
        with torch.no_grad():  # in training mode still: the mean style follows here too
            videos = networks["generator"](latents, times, noise)
        generated = networks["discriminator"](videos, times)
        real = networks["discriminator"](batch.videos, real_times(batch))
        observe(networks["discriminator"], real)
        parts = {"output_generated": generated.detach().mean(), "output_real": real.detach().mean()}
        return Loss(discriminator_loss(generated, real), parts)

    def penalty_loss(self, networks: Networks, batch: Batch) -> Loss:
        """The outputs on real clips are to be flat; for all the steps in which it is not asked."""
        settings = self.config.penalty
        discriminator = networks["discriminator"]
        loss, real = r1_loss(discriminator, batch.videos, real_times(batch), settings.weight)
        observe(discriminator, real)
        return Loss(settings.every * loss, {"r1": loss.detach()})

    def draw_inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the generator makes as many clips from as the batch has: latents (B, Z), times
        (B, F), spread as those of the batch's videos, and motion noise (B, L, Zm)."""
        require(
            batch.images is None,
            "data.images_per_clip: this method learns from clips alone; set data.images_per_clip=0",
        )
        if batch.available is None:
            raise ValueError(NO_TIMES)
        count, device = len(batch.available), batch.available.device
        drawn = torch.randint(count, (count,), device=device)
        times = draw_times(self.times, batch.available[drawn])
        latents = torch.randn(count, self.config.latent, device=device)
        length = self.motion.noise_length(self.times.longest_video - 1)
        noise = torch.randn(count, length, self.motion.noise_width, device=device)
        return latents, times, noise

    def end_step(self, networks: Networks, step: int, clips: int) -> Mapping[str, Tensor]:
        """Augment more where the outputs on real clips are surer than the target, else less."""
        augmentation = augmentation_of(networks["discriminator"])
        if augmentation is None:
            return {}
        settings = self.config.augmentation
        due = (step + 1) % settings.every == 0
        sign = adapt_strength(
            augmentation, clips, due=due, target=settings.target, speed=settings.speed
        )
        return {"sign_real": sign, "augmentation": augmentation.strength}

    # ------------------------------------------------------------ sampling

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Every frame is a function of content, motion and its time, so that videos of any length
        and speed are made a few frames at a time, and begin alike."""
        assert isinstance(settings, StyleGANVSampling)
        count = frames or self.shape.frames
        # Rounded once, so that noise is drawn for the very times that are asked for.
        times = (settings.time_offset + settings.time_step * torch.arange(count).double()).float()
        latest = float(times[-1])
        require(
            latest <= LATEST,
            f"sampling.time_offset, sampling.time_step: the last of {count} frames would be at "
            f"time {latest:g}; at most {LATEST:,}, beyond which times are too coarse for motion",
        )
        latents = self.draw_content(noise, settings.content_seed)
        motion = self.draw_motion(noise, settings.motion_seed, latest)
        pieces = []
        for some in times.to(noise.device).split(settings.frame_batch):
            each = some.expand(len(noise), -1)
            piece = networks["generator"](latents, each, motion, settings.truncation)
            pieces.append(piece.float().clamp(-1, 1))
            if progress:
                progress(sum(piece.shape[1] for piece in pieces), count)
        return torch.cat(pieces, dim=1)

    def draw_content(self, noise: VideoNoise, seed: int | None) -> Tensor:
        """Latents (B, Z), the first numbers of every video: its own, or all those of a seed."""
        latents = noise.draw(self.config.latent)  # also beside a seed: motion comes after it
        if seed is None:
            return latents
        return VideoNoise([seed], noise.device).draw(self.config.latent).expand(len(noise), -1)

    def draw_motion(self, noise: VideoNoise, seed: int | None, latest: float) -> Tensor:
        """Noise vectors (B, L, Zm) up to a time; vector after vector, so that a longer video goes
        on from the noise of a shorter one."""
        source = noise
        if seed is not None:
            source = VideoNoise([seed], noise.device)
            self.draw_content(source, None)
        length = self.motion.noise_length(latest)
        vectors = [source.draw(self.motion.noise_width) for _ in range(length)]
        return torch.stack(vectors, dim=1).expand(len(noise), -1, -1)


def check_sizes(shape: VideoShape, times: FrameTimes, config: StyleGANVConfig) -> None:
    """Raise ValueError in one line, naming the key, unless networks for such clips can be built."""
    size = shape.height
    require(
        size >= SMALLEST and size & (size - 1) == 0,
        f"clip.size: this method needs a power of two from {SMALLEST} on, got {size}",
    )
    require(times.spacing == "random", NO_TIMES)
    joined = config.discriminator.joined_at
    require(
        8 <= joined < size and joined & (joined - 1) == 0,
        f"method.discriminator.joined_at: a power of two from 8 to half of clip.size ({size}), "
        f"got {joined}",
    )
    require(
        config.channel_base >= size,
        f"method.channel_base: at least clip.size ({size}), for maps of that side have "
        f"channel_base / clip.size channels; got {config.channel_base}",
    )
    width = min(config.channel_base // joined, config.channel_max)
    divisor = config.discriminator.joined_divisor
    require(
        divisor <= width,
        f"method.discriminator.joined_divisor: at most the {width} channels that are divided, "
        f"got {divisor}",
    )


def check_batch(settings: TrainConfig, config: DiscriminatorConfig) -> None:
    """Raise ValueError in one line unless groups of clips divide a micro batch."""
    members = min(config.group, settings.batch_size)
    require(
        settings.batch_size % members == 0,
        f"train.batch_size: the clips of a micro batch are compared in groups of {members} "
        f"(method.discriminator.group), got {settings.batch_size}; choose a multiple of {members}",
    )


def augmentation_of(discriminator: nn.Module) -> Augmentation | None:
    """What a discriminator, alone or wrapped for several processes, puts before its eyes."""
    parallel = isinstance(discriminator, DistributedDataParallel)
    plain = discriminator.module if parallel else discriminator
    assert isinstance(plain, Discriminator)
    assert isinstance(plain.augmentation, Augmentation | None)
    return plain.augmentation


def observe(discriminator: nn.Module, real: Tensor) -> None:
    """Count the signs of the outputs (B,) on real clips, which the augmentation follows."""
    augmentation = augmentation_of(discriminator)
    if augmentation is not None and discriminator.training:
        augmentation.record(real.detach())


def real_times(batch: Batch) -> Tensor:
    """The times of a batch's clips (B, F)."""
    if batch.times is None:
        raise ValueError(NO_TIMES)
    return batch.times


METHOD = StyleGANV
