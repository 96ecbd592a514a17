"""MoStGAN-V (CVPR 2023, arXiv 2304.02777): StyleGAN-V whose filters follow motion styles.

Every frame has a few motion styles, by which the larger layers change their filters, and the
discriminator also sees how neighbouring frames differ. All else is StyleGAN-V's. Defaults are
those of the training on endoscopy beside Endora (arXiv 2403.11050).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from configs.schema import require
from models.adversarial import generator_loss
from models.backbones.stylegan.generator import GeneratorSizes, MotionStyleSizes
from models.interface import Batch, Loss, Networks
from models.layers.motion_modulation import Mode
from models.methods.stylegan_v import (
    AugmentationConfig,
    DiscriminatorConfig,
    PenaltyConfig,
    StyleGANV,
    StyleGANVConfig,
)


@dataclass
class MotionStylesConfig:
    """What each frame has beside its content; see `models/layers/motion_modulation.py`."""

    count: int = 8  # motion styles of a frame
    width: int = 128  # of a motion style
    # Sides of the maps whose two convolutions follow them; those above clip.size do not count.
    resolutions: list[int] = field(default_factory=lambda: [16, 32, 64, 128])

    def __post_init__(self) -> None:
        for name in ("count", "width"):
            value = getattr(self, name)
            require(value >= 1, f"method.motion_styles.{name}: at least 1, got {value}")
        for side in self.resolutions:
            require(
                side >= 8 and side & (side - 1) == 0,
                f"method.motion_styles.resolutions: powers of two from 8 on, got {side}",
            )


@dataclass
class MoStGANVConfig(StyleGANVConfig):
    # Filters are convolved with, and bring their output back to unit variance ("demodulation").
    #   paper     both with the filters that motion has changed, as the paper describes it. The
    #             reference does so only when it samples in float32
    #   demod     convolve with the unchanged filters; motion acts through the demodulation alone,
    #             so it scales whole channels. The reference's training in float32
    #   released  demod, after filters and content styles were divided by their largest values, as
    #             the reference does in half precision, in which it trains and samples. Scores of
    #             the attention become hundreds of times smaller, so it starts out uniform. The
    #             public configurations train and sample so; presumably the published results too
    # Here a choice means the same in training and sampling and in every precision. `paper` keeps
    # filters for every frame, and is slower by as much.
    motion_modulation: Mode = "released"
    motion_styles: MotionStylesConfig = field(default_factory=MotionStylesConfig)
    # Weight of a term that keeps the attention of different motion styles apart; the references
    # leave it at 0, and then it is not computed.
    diversity_weight: float = 0.0
    discriminator: DiscriminatorConfig = field(
        default_factory=lambda: DiscriminatorConfig(hidden=128, frame_differences=True)
    )
    penalty: PenaltyConfig = field(default_factory=lambda: PenaltyConfig(weight=10.0))
    augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(transforms="bgc_noro")
    )
    lazy_steps: int = 8  # as in StyleGAN-V, where it is 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.diversity_weight >= 0,
            f"method.diversity_weight: 0 or more, got {self.diversity_weight}",
        )


class MoStGANV(StyleGANV):
    Config = MoStGANVConfig
    adjustable = StyleGANV.adjustable | {"diversity_weight"}
    config: MoStGANVConfig

    def generator_sizes(self) -> GeneratorSizes:
        styles = self.config.motion_styles
        size, sides = self.shape.height, styles.resolutions
        require(
            min(sides, default=size + 1) <= size,
            f"method.motion_styles.resolutions: at least one up to clip.size ({size}), got {sides}",
        )
        extra = MotionStyleSizes(
            styles.count, styles.width, tuple(sides), self.config.motion_modulation
        )
        return dataclasses.replace(super().generator_sizes(), motion_styles=extra)

    def generator_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Generated clips are to pass for real ones, and their motion styles to differ."""
        weight = self.config.diversity_weight
        if weight == 0:
            return super().generator_loss(networks, batch)
        latents, times, noise = self.draw_inputs(batch)
        videos, likeness = networks["generator"](latents, times, noise, likeness=True)
        loss = generator_loss(networks["discriminator"](videos, times)) + weight * likeness
        return Loss(loss, {"likeness": likeness.detach()})


METHOD = MoStGANV
