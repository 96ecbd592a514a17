"""Endora and Latte."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from configs.load import to_plain
from configs.schema import ClipConfig, DataConfig, RunConfig
from models.importers.endora import (
    OriginalSizes,
    State,
    import_original,
    original_sizes,
    original_state,
)
from models.importers.stored_tensors import StoredTensor
from models.methods.endora import SIZES, Endora, EndoraConfig, TransformerConfig
from models.priors.features import PriorConfig
from models.registry import build_method
from tools.importing.choices import Choices, Imported
from tools.training.state import load_networks
from tools.training.weights import Weights

STRIDE = 8  # of the autoencoder that the originals were trained with
PRIORS = {384: "vit_small_patch8_224.dino", 768: "vit_base_patch8_224.dino"}  # by width
HEADS = {width: heads for _, width, heads in SIZES.values()}


def import_endora(checkpoint: Mapping[str, object], choices: Choices) -> list[Imported]:
    """The denoiser, loaded into the network of this project for a test. Raises ValueError."""
    stored: Mapping[str, object] = original_state(checkpoint, choices.which)
    state = {
        name: value.read() for name, value in stored.items() if isinstance(value, StoredTensor)
    }
    weights = convert(state, heads=choices.heads, interlaced=choices.interlaced)
    _check(weights)
    transformer = weights.config["method"]["transformer"]
    summary = (
        f"depth {transformer['depth']}, width {transformer['width']}, "
        f"patch {transformer['patch']}, {weights.config['clip']['frames']} frames"
    )
    return [Imported(weights, summary, choices.output)]


def convert(state: State, *, heads: int | None = None, interlaced: bool = True) -> Weights:
    """Our weights, with complete settings, from an original state dict.

    `heads` is needed for a width that is not one of the presets', for the file does not tell it.
    Raises ValueError when the file is not of the known layout.
    """
    sizes = original_sizes(state)
    config = _run_config(sizes, heads, interlaced)
    networks = {"denoiser": import_original(state, interlaced=interlaced)}
    return Weights(to_plain(config), config.method_name, 0, networks, None)


def _run_config(sizes: OriginalSizes, heads: int | None, interlaced: bool) -> RunConfig:
    heads = heads or HEADS.get(sizes.width)
    if heads is None:
        raise ValueError(f"--heads: the number of heads of a model {sizes.width} wide is not known")
    prior = PriorConfig(weight=0.0)
    if sizes.prior_width:
        if sizes.prior_width not in PRIORS:
            raise ValueError(f"cov.weight: no known prior is {sizes.prior_width} wide")
        aligned = [layer for layer in PriorConfig().layers if layer < sizes.depth // 2]
        prior = PriorConfig(
            name=PRIORS[sizes.prior_width],
            normalize="none",
            layers=aligned,
            pairs=aligned,
            projection_width=sizes.projection_width,
        )
    transformer = TransformerConfig(
        patch=sizes.patch,
        depth=sizes.depth,
        width=sizes.width,
        heads=heads,
        interlaced=interlaced,
        classes=sizes.classes,
    )
    return RunConfig(
        method_name="endora",
        output="runs/imported",
        clip=ClipConfig(frames=sizes.frames, size=sizes.rows * sizes.patch * STRIDE),
        data=DataConfig(folder="data"),
        method=EndoraConfig(transformer=transformer, prior=prior),
    )


def _check(weights: Weights) -> None:
    """Raise ValueError unless the networks of this project take exactly these weights."""
    config = weights.run_config()
    assert isinstance(config.method, EndoraConfig)
    # The check needs shapes alone, so the codec with the same grid that needs no download serves.
    codec = dataclasses.replace(config.method.codec, name="pixels", stride=STRIDE)
    method = build_method(
        dataclasses.replace(config, method=dataclasses.replace(config.method, codec=codec)),
        training=False,
    )
    assert isinstance(method, Endora)
    channels = weights.networks["denoiser"]["transformer.patch_embedding.weight"].shape[1]
    method.latents = dataclasses.replace(method.latents, channels=channels)
    load_networks(method.build_networks(), weights.networks)
