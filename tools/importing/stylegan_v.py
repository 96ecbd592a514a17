"""StyleGAN-V and MoStGAN-V."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.load import to_plain
from configs.schema import ClipConfig, DataConfig, RunConfig
from models.importers.stylegan_v import GanSizes, StoredState, read_gan
from models.methods.mostgan_v import MoStGANVConfig, MotionStylesConfig
from models.methods.stylegan_v import DiscriminatorConfig, MotionConfig, StyleGANVConfig
from models.registry import build_method
from tools.importing.choices import Choices, Imported
from tools.training.state import load_networks
from tools.training.weights import Weights

LONGEST_SPAN = 32  # frames from the first to the last of a clip in training, at most
_AUGMENTATION = "augmentation."


def import_gan(checkpoint: Mapping[str, object], choices: Choices) -> list[Imported]:
    """Generator and discriminator, loaded into the networks of this project. Raises ValueError."""
    original = read_gan(checkpoint, choices.which)
    config = _run_config(original.sizes, choices)
    networks = build_method(config).build_networks()
    discriminator = {
        name: value
        for name, value in networks["discriminator"].state_dict().items()
        if name.startswith(_AUGMENTATION)
    }
    strength = discriminator[f"{_AUGMENTATION}strength"]
    strength.fill_(min(max(original.strength, 0.0), 1.0))
    weights: dict[str, dict[str, Any]] = {
        "generator": _read(original.generator),
        "discriminator": {**discriminator, **_read(original.discriminator)},
    }
    load_networks(networks, weights)
    sizes = original.sizes
    summary = (
        f"{config.method_name}, {sizes.resolution}x{sizes.resolution}, {sizes.frames} frames, "
        f"times up to {sizes.longest_video}, augmentation {original.strength:.3f}"
    )
    made = Weights(to_plain(config), config.method_name, original.step, weights)
    return [Imported(made, summary, choices.output)]


def _run_config(sizes: GanSizes, choices: Choices) -> RunConfig:
    clip = ClipConfig(
        frames=sizes.frames,
        size=sizes.resolution,
        frame_interval=choices.frame_interval,
        spacing="random",
        longest_span=max(LONGEST_SPAN, sizes.frames - 1),
        longest_video=sizes.longest_video,
    )
    return RunConfig(
        method_name="mostgan_v" if sizes.motion_styles else "stylegan_v",
        output="runs/imported",
        clip=clip,
        data=DataConfig(folder="data", images_per_clip=0),
        method=_method_config(sizes, choices),
    )


def _method_config(sizes: GanSizes, choices: Choices) -> StyleGANVConfig:
    distance = choices.anchor_distance or sizes.anchor_distance
    if distance is None:
        raise ValueError(
            "--anchor-distance: the file does not tell how many frames lie between motion codes "
            "(16 in the trainings on endoscopy)"
        )
    common: dict[str, Any] = {
        "channel_base": sizes.channel_base,
        "channel_max": sizes.channel_max,
        "latent": sizes.latent,
        "motion": MotionConfig(
            width=sizes.motion_width,
            kernel=sizes.kernel,
            anchor_distance=distance,
            periods=sizes.periods,
            shortest_period=sizes.shortest_period,
            longest_period=sizes.longest_period,
        ),
        "discriminator": DiscriminatorConfig(
            joined_at=sizes.joined_at,
            joined_divisor=sizes.joined_divisor,
            group=sizes.group,
            hidden=sizes.hidden,
            conditioning_width=sizes.conditioning_width,
            frame_differences=sizes.frame_differences,
        ),
    }
    if sizes.motion_styles is None:
        return StyleGANVConfig(**common)
    found = sizes.motion_styles
    return MoStGANVConfig(
        **common,
        motion_modulation=choices.motion_modulation,
        motion_styles=MotionStylesConfig(found.count, found.width, list(found.resolutions)),
    )


def _read(state: StoredState) -> dict[str, Any]:
    return {name: value.read() for name, value in state.items()}
