"""Pixels <-> latents behind one class that owns its stride, channels and scale."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Moments = tuple[Tensor, "Tensor | None"]  # mean and log-variance; none is a latent without noise

# Frames whose posterior noise is drawn in one go. A fixed number, whatever is encoded at once, for
# on a GPU the random numbers depend on it, and training from a cache has to draw the same ones.
DRAWN_AT_ONCE = 16

# What a GPU decodes in one go: 128 frames of 128x128. The largest maps of the Stable Diffusion
# autoencoder, 256 channels at full size, then take 2 GB each.
PIXELS_AT_ONCE = 2**21


class Codec(nn.Module):
    """Encodes videos frame by frame. Frozen: parameters never receive gradients.

    `stride` is the side of a latent cell in pixels, `channels` the latent channels, `chunk` the
    number of frames encoded or decoded at once, which bounds memory; `encodes_in_bf16` rounds the
    latents by about a hundredth of their spread, in half the time.
    """

    stride: int
    channels: int
    chunk: int = 64
    encodes_in_bf16: bool = False

    def encode(self, frames: Tensor) -> Tensor:
        """Pixels (B, F, 3, H, W) in [-1, 1] -> latents (B, F, C, h, w) of about unit variance.

        A variational codec draws from its posterior.
        """
        mean, log_variance = self.encode_moments(frames.flatten(0, 1))
        unflattened = None if log_variance is None else log_variance.unflatten(0, frames.shape[:2])
        return draw_latents(mean.unflatten(0, frames.shape[:2]), unflattened)

    def encode_moments(self, images: Tensor) -> Moments:
        """Images (N, 3, H, W) in [-1, 1] -> mean and log-variance of their latents, (N, C, h, w)
        float32 both; the latter is none where the codec does not draw."""
        kind = images.device.type
        with _exact(images), torch.autocast(kind, torch.bfloat16, enabled=self.encodes_in_bf16):
            pieces = [_floats(self.encode_images(p)) for p in images.float().split(self.chunk)]
        variances = [variance for _, variance in pieces if variance is not None]
        return torch.cat([mean for mean, _ in pieces]), torch.cat(variances) if variances else None

    def decode(self, latents: Tensor, *, bf16: bool = False) -> Tensor:
        """Latents (B, F, C, h, w) -> pixels (B, F, 3, H, W) float32, clamped to [-1, 1].

        Frames of all videos are decoded together, as many at once as fill the device. `bf16`
        takes half the time and differs by less than the rounding to 8 bits does (62 dB with the
        demo's autoencoder, rounding 59 dB).
        """
        images = latents.float().flatten(0, 1)
        with _exact(latents), torch.autocast(latents.device.type, torch.bfloat16, enabled=bf16):
            decoded = self._decode_by_chunks(images, self._decoded_at_once(latents))
        return decoded.unflatten(0, latents.shape[:2]).clamp(-1, 1)

    def _decode_by_chunks(self, images: Tensor, count: int) -> Tensor:
        try:
            return torch.cat(
                [
                    # convolutions are faster with the channels innermost
                    self.decode_images(piece.contiguous(memory_format=torch.channels_last))
                    .float()
                    .contiguous()
                    for piece in images.split(count)
                ]
            )
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        return self._decode_by_chunks(images, count // 2)  # after the failed try is let go

    def _decoded_at_once(self, latents: Tensor) -> int:
        if latents.device.type == "cpu":
            return self.chunk
        cells = latents.shape[-2] * latents.shape[-1]
        return max(self.chunk, PIXELS_AT_ONCE // (cells * self.stride**2))

    @abstractmethod
    def encode_images(self, images: Tensor) -> Moments:
        """`encode_moments` of at most `chunk` images, (N, 3, H, W)"""

    @abstractmethod
    def decode_images(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 3, H, W)"""


def draw_latents(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """Latents from their posterior: mean + exp(log_variance / 2) * noise; the mean where there is
    no variance.

    Inputs:  (B, F, C, h, w) both; the log-variance of any floating type
    Output:  (B, F, C, h, w) float32, contiguous: noise that is drawn like it takes its strides,
             and those of a convolution's output may put the same random numbers elsewhere
    """
    if log_variance is None:
        return mean.contiguous()
    with torch.no_grad(), torch.autocast(mean.device.type, enabled=False):
        pieces = mean.flatten(0, 1).split(DRAWN_AT_ONCE)
        noise = torch.cat([torch.randn(piece.shape, device=mean.device) for piece in pieces])
        drawn = mean + torch.exp(0.5 * log_variance.float()) * noise.unflatten(0, mean.shape[:2])
        return drawn.contiguous()


def _floats(moments: Moments) -> Moments:
    mean, log_variance = moments
    return mean.float(), None if log_variance is None else log_variance.float()


@contextlib.contextmanager
def _exact(values: Tensor) -> Iterator[None]:
    # Half precision costs an autoencoder visible colour, and it is a small share of a step.
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        yield
