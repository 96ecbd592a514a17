"""Convert a published Endora or Latte checkpoint into weights that `sample` and `train.py` take.

python -m tools.import_checkpoint ORIGINAL.pt --output endora-col.safetensors

The sizes are read from the file. The file is opened in torch's safe mode: no code in it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import torch

from configs.errors import run_command
from configs.load import to_plain
from configs.schema import ClipConfig, DataConfig, RunConfig
from models.importers import OriginalSizes, State, import_original, original_sizes, original_state
from models.methods.endora import SIZES, Endora, EndoraConfig, TransformerConfig
from models.priors.features import PriorConfig
from models.registry import build_method
from tools.training.state import load_networks
from tools.training.weights import Weights, write_weights

STRIDE = 8  # of the autoencoder that the originals were trained with
PRIORS = {384: "vit_small_patch8_224.dino", 768: "vit_base_patch8_224.dino"}  # by width
HEADS = {width: heads for _, width, heads in SIZES.values()}


def convert(state: State, *, heads: int | None = None, interlaced: bool = True) -> Weights:
    """Our weights, with complete settings, from an original state dict.

    `heads` is needed for a width that is not one of the presets', for the file does not tell it.
    Raises ValueError when the file is not of the known layout.
    """
    sizes = original_sizes(state)
    config = _run_config(sizes, heads, interlaced)
    networks = {"denoiser": import_original(state, interlaced=interlaced)}
    return Weights(to_plain(config), config.method_name, 0, networks, None)


def read_original(path: Path, which: str) -> State:
    """The state dict of an original file. Raises FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        # Latte's checkpoints carry the training arguments, a plain holder of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise ValueError(f"{path}: not a checkpoint that opens in safe mode: {reason}") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    try:
        return original_state(checkpoint, which)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.import_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("original", type=Path, metavar="ORIGINAL.pt")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--which", choices=("ema", "model"), default="ema", help="default: ema")
    parser.add_argument("--heads", type=int, help="attention heads, for sizes off the presets")
    parser.add_argument(
        "--sequential", action="store_true", help="all spatial blocks come before all temporal ones"
    )
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output {arguments.output}: the name has to end in .safetensors")
    state: Any = read_original(arguments.original, arguments.which)
    try:
        weights = convert(state, heads=arguments.heads, interlaced=not arguments.sequential)
        _check(weights)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{arguments.original}: {error}") from None
    write_weights(arguments.output, weights)
    transformer = weights.config["method"]["transformer"]
    print(
        f"wrote {arguments.output}: depth {transformer['depth']}, width {transformer['width']}, "
        f"patch {transformer['patch']}, {weights.config['clip']['frames']} frames"
    )


if __name__ == "__main__":
    run_command(main)
