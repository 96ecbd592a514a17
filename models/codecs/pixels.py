"""A lossless codec without weights: cuts frames into cells and stacks their pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.codecs.interface import Codec, Moments


class PixelCodec(Codec):
    """Space to depth: (3, H, W) -> (3 * stride^2, H / stride, W / stride), and back exactly."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, 3 * stride * stride

    def encode_images(self, images: Tensor) -> Moments:
        return F.pixel_unshuffle(images, self.stride), None

    def decode_images(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.stride)
