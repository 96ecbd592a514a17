"""Which codec a run uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.codecs.interface import Codec


@dataclass
class CodecConfig:
    """Settings of the step between pixels and latents."""

    name: Literal["autoencoder", "tiny", "trained", "pixels"] = "autoencoder"
    weights: str | None = "stabilityai/sd-vae-ft-mse"  # hub name, folder or file; pixels: none
    stride: int = 8  # side of a cell in pixels; read only by the codec `pixels`
    # bf16 takes half the time of fp32 and moves latents by about a hundredth of their spread.
    encode: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"method.codec.stride: at least 1 pixel, got {self.stride}")


def build_codec(config: CodecConfig) -> Codec:
    """The frozen codec, in evaluation mode. Raises ValueError or FileNotFoundError."""
    codec = _build(config)
    codec.encodes_in_bf16 = config.encode == "bf16"
    return codec.eval().requires_grad_(False)


def codec_files(config: CodecConfig) -> list[Path]:
    """The local files that the weights are read from, where they are on this machine."""
    if config.name == "pixels" or config.weights is None:
        return []
    if config.name == "tiny":
        from models.codecs.tiny import weight_files

        return weight_files(config.weights)
    if config.name == "trained":
        return [Path(config.weights)] if Path(config.weights).is_file() else []
    from models.codecs.autoencoder import weight_files as autoencoder_files

    return autoencoder_files(config.weights)


def _build(config: CodecConfig) -> Codec:
    if config.name == "pixels":
        from models.codecs.pixels import PixelCodec

        return PixelCodec(config.stride)
    if config.weights is None:
        raise ValueError(f"method.codec.weights: the codec {config.name!r} needs weights")
    if config.name == "tiny":
        from models.codecs.tiny import TinyCodec

        return TinyCodec(config.weights)
    if config.name == "trained":
        from models.codecs.trained import TrainedCodec

        return TrainedCodec(config.weights)
    from models.codecs.autoencoder import DiffusersCodec

    return DiffusersCodec(config.weights)
