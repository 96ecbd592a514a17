"""The autoencoder that this project trains itself (`models/methods/autoencoder.py`)."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.backbones.patch_autoencoder import PatchAutoencoder
from models.codecs.interface import Codec, Moments

PREFIX = "autoencoder/"  # of the network in exported weights


class TrainedCodec(Codec):
    """A `PatchAutoencoder` from exported weights, which tell its sizes.

    Raises FileNotFoundError or ValueError, naming the file.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise FileNotFoundError(
                f"method.codec.weights: no file {weights}; train an autoencoder (configs/demo/"
                f"autoencoder.yaml) and export it: python -m tools.export"
            )
        try:
            state = {
                key.removeprefix(PREFIX): value.float() for key, value in load_file(weights).items()
            }
            self.autoencoder = _network_like(state)
            self.autoencoder.load_state_dict(state)
        except (SafetensorError, RuntimeError, KeyError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ValueError(f"{weights}: not an exported autoencoder: {reason}") from None
        self.stride, self.channels = self.autoencoder.stride, self.autoencoder.channels

    def encode_images(self, images: Tensor) -> Moments:
        return self.autoencoder.encode(images), None

    def decode_images(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


def _network_like(state: dict[str, Tensor]) -> PatchAutoencoder:
    channels, _, stride, _ = state["encoder.weight"].shape
    blocks = sum(key.startswith("refine.") and key.endswith(".conv.0.weight") for key in state)
    return PatchAutoencoder(channels, stride, len(state["refine.0.weight"]), blocks)
