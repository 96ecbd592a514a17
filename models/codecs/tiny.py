"""Small convolutional autoencoders of TAESD's family, from their published files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.backbones.tiny_autoencoder import TinyAutoencoder
from models.codecs.interface import Codec, Moments

State = Mapping[str, Tensor]

HALVES = ("encoder", "decoder")


class TinyCodec(Codec):
    """A `TinyAutoencoder` whose sizes are read from its weights.

    Input:   `weights` is the common start of a pair of files, such as `taef2` for
             taef2_encoder.pth and taef2_decoder.pth (also .safetensors)
    Raises:  FileNotFoundError or ValueError, naming the file
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        encoder, decoder = (_load(_half(Path(weights), half)) for half in HALVES)
        try:
            self.autoencoder = autoencoder_like(encoder, decoder)
            self.autoencoder.encoder.load_state_dict(encoder)
            self.autoencoder.decoder.load_state_dict(decoder)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{weights}: not a tiny autoencoder: {error}") from None
        self.stride, self.channels = self.autoencoder.stride, self.autoencoder.channels
        self.float()

    def encode_images(self, images: Tensor) -> Moments:
        return self.autoencoder.encode(images), None

    def decode_images(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


def autoencoder_like(encoder: State, decoder: State) -> TinyAutoencoder:
    """An untrained network with the sizes that the weights of both halves tell."""
    layers = _layers(decoder)
    return TinyAutoencoder(
        channels=decoder["1.weight"].shape[1],
        width=decoder["1.weight"].shape[0],
        encoder_blocks=_blocks_by_level(_layers(encoder)),
        decoder_blocks=_blocks_by_level(layers),
        pooled=any("pool.0.weight" in parts for parts in layers.values()),
    )


def _blocks_by_level(layers: dict[int, set[str]]) -> list[int]:
    """Residual blocks between the convolutions without bias, which change the resolution."""
    counts = [0]
    for parts in layers.values():
        if parts == {"weight"}:
            counts.append(0)
        elif "conv.0.weight" in parts:
            counts[-1] += 1
    return counts


def _layers(state: State) -> dict[int, set[str]]:
    layers: dict[int, set[str]] = {}
    for key in state:
        index, _, part = key.partition(".")
        if not index.isdigit():
            raise ValueError(f"unexpected weight {key!r}")
        layers.setdefault(int(index), set()).add(part)
    return dict(sorted(layers.items()))


def weight_files(weights: str) -> list[Path]:
    """The pair of files that `weights` begins, where both are there."""
    found = [[p for p in _candidates(Path(weights), h) if p.is_file()] for h in HALVES]
    return [candidates[0] for candidates in found] if all(found) else []


def _candidates(path: Path, half: str) -> list[Path]:
    return [path.with_name(f"{path.name}_{half}{end}") for end in (".safetensors", ".pth")]


def _half(path: Path, half: str) -> Path:
    candidates = _candidates(path, half)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"method.codec.weights: no file {candidates[-1]}; give the common start of a pair "
        f"NAME_encoder.pth, NAME_decoder.pth"
    )


def _load(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - the readers raise many kinds for a broken file
        raise ValueError(f"{path}: not a readable weight file ({type(error).__name__})") from None
