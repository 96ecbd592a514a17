"""Videos <-> latents through a `VideoAutoencoder` that `lvdm_autoencoder` has trained."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from configs.shapes import VideoShape
from models.backbones.video_autoencoder import VideoAutoencoder, split

METHOD = "lvdm_autoencoder"  # the method whose runs can be read
NETWORK = "autoencoder"  # its name in checkpoints and exported weights
RAW = -1  # in place of the number of a moving average: the weights that were trained
UNTRAINED = "untrained"  # in place of a path: small, with random weights, for tests

# What is encoded or decoded in one go: 128 frames of 128x128, with the published network about
# 3 GB of maps.
PIXELS_AT_ONCE = 2**21


class Window(NamedTuple):
    """One piece of a windowed decode, in latent frames: decode [start, stop), of that keep
    [keep_from, keep_to) (counted in the whole)."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


class VideoCodec(nn.Module):
    """A frozen video autoencoder, always in evaluation mode and float32.

    network   the `VideoAutoencoder`
    shape     of the clips it was trained on, in pixels; none: not known (untrained)
    sha256    of its weights, whatever file they came from
    channels  of a latent cell; `factors` are the sides of one over (time, height, width)
    """

    def __init__(self, network: VideoAutoencoder, shape: VideoShape | None, sha256: str) -> None:
        super().__init__()
        self.network = network
        self.shape, self.sha256 = shape, sha256
        self.channels, self.factors = network.channels, network.factors
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> VideoCodec:
        """A frozen codec stays in evaluation mode."""
        return super().train(False)

    def latents(self, video: VideoShape) -> VideoShape:
        """(f, C, h, w) of the latents of a video.

        Raises ValueError when the factors do not divide it, or when its frames have another size
        than those the autoencoder was trained on. The number of frames is free.
        """
        if self.shape and (video.height, video.width) != (self.shape.height, self.shape.width):
            raise ValueError(
                f"the autoencoder was trained on {self.shape.height}x{self.shape.width} frames, "
                f"not on {video.height}x{video.width}; give both stages the same clip.size"
            )
        frames, height, width = self.network.latent_sizes(video.frames, video.height, video.width)
        return VideoShape(frames, self.channels, height, width)

    def encode(self, videos: Tensor) -> Tensor:
        """Pixels (B, F, 3, H, W) in [-1, 1] -> latents (B, f, C, h, w), drawn from the posterior
        with the global random numbers of their device; not normalised."""
        mean, log_variance = self.encode_moments(videos)
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    @torch.no_grad()
    def encode_moments(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, F, 3, H, W) in [-1, 1] -> mean and log-variance (B, f, C, h, w), float32."""
        with torch.autocast(videos.device.type, enabled=False):
            moments = [
                self.network.encode(piece.float().transpose(1, 2))
                for piece in videos.split(_at_once(videos.shape[1] * videos[0, 0, 0].numel()))
            ]
        mean, log_variance = split(torch.cat(moments))
        return mean.transpose(1, 2).contiguous(), log_variance.transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor, window: int | None = None, overlap: int = 2) -> Tensor:
        """Latents (B, f, C, h, w) -> pixels (B, F, 3, H, W) float32, clamped to [-1, 1].

        More latent frames than `window` are decoded in windows that share `overlap` of them, so
        that memory does not grow with the length; see `decode_windows`.

        Inputs:  window, latent frames; none: the length the autoencoder was trained on
        """
        time, rows, columns = self.factors
        if window is None:
            window = self.shape.frames // time if self.shape else latents.shape[1]
        pieces = []
        with torch.autocast(latents.device.type, enabled=False):
            for part in decode_windows(latents.shape[1], window, overlap):
                piece = latents[:, part.start : part.stop].float().transpose(1, 2)
                pixels = time * rows * columns * piece[0, 0].numel()
                videos = torch.cat(
                    [self.network.decode(p) for p in piece.split(_at_once(pixels))]
                ).transpose(1, 2)
                first, last = part.keep_from - part.start, part.keep_to - part.start
                pieces.append(videos[:, time * first : time * last].clamp(-1, 1))
        return torch.cat(pieces, dim=1)


def decode_windows(length: int, window: int, overlap: int) -> list[Window]:
    """Windows that cover `length` latent frames; of what two share each keeps half.

    Neighbours start `window - overlap` apart; the last one is shifted back to end at the end.
    Of the frames that two windows share the earlier one keeps the first half, the later one the
    rest (the earlier one gets the odd frame), for a window is worst at its ends.

    Raises ValueError unless 0 <= overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(
            f"windows of {window} latent frames cannot overlap by {overlap}; the overlap is from "
            f"0 to {window - 1}"
        )
    if length <= window:
        return [Window(0, length, 0, length)]
    starts = [*range(0, length - window, window - overlap), length - window]
    cuts = [0]
    for earlier, later in itertools.pairwise(starts):
        shared = earlier + window - later
        cuts.append(later + shared - shared // 2)
    cuts.append(length)
    return [
        Window(start, start + window, cuts[number], cuts[number + 1])
        for number, start in enumerate(starts)
    ]


def load_video_autoencoder(path: str | Path, average: int = 0) -> VideoCodec:
    """The trained video autoencoder of a run of the method `lvdm_autoencoder`.

    Inputs:  path of a run folder (its newest checkpoint), a checkpoint (.pt) or exported weights
             (.safetensors); `untrained` is a small one with random weights
             average, which of a checkpoint's moving averages; -1 the raw weights
    Raises:  FileNotFoundError or ValueError, in one line
    """
    if str(path) == UNTRAINED:
        return _untrained()
    file = newest_checkpoint(Path(path))
    if not file.is_file():
        raise FileNotFoundError(
            f"method.autoencoder: no run folder, checkpoint or weights file {path}; train stage 1 "
            f"first: python train.py --config configs/*/{METHOD}.yaml"
        )
    read = _read_exported if file.suffix == ".safetensors" else _read_checkpoint
    method_name, config, state = read(file, average)
    if method_name != METHOD:
        raise ValueError(
            f"method.autoencoder: {file} is of the method {method_name!r}; stage 2 needs a run of "
            f"{METHOD!r}"
        )
    try:
        network, shape = network_of(config)
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"method.autoencoder: {file} holds no complete video autoencoder: {_reason(error)}"
        ) from None
    return VideoCodec(network, shape, weights_sha256(network))


def network_of(config: Mapping[str, Any]) -> tuple[VideoAutoencoder, VideoShape]:
    """A new network and the clips' shape, from the complete settings of a stage-1 run.

    Raises KeyError, TypeError or ValueError where they are not such settings.
    """
    method, clip = config["method"], config["clip"]
    network = VideoAutoencoder(
        method["width"], method["factors"], method["channels"], method["groups"]
    )
    return network, VideoShape(int(clip["frames"]), 3, int(clip["size"]), int(clip["size"]))


def newest_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run folder, or the path itself. Raises FileNotFoundError."""
    if not path.is_dir():
        return path
    found = {
        int(match[1]): file
        for file in path.glob("checkpoints/*.pt")
        if (match := re.fullmatch(r"step_(\d+)\.pt", file.name))
    }
    if not found:
        raise FileNotFoundError(
            f"method.autoencoder: no checkpoint in the run folder {path}; train stage 1 first, or "
            f"name a checkpoint (.pt) or exported weights (.safetensors)"
        )
    return found[max(found)]


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 of all weights as float32 with their names, the same from whatever file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _untrained() -> VideoCodec:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VideoAutoencoder(width=8, groups=8)
    return VideoCodec(network, None, weights_sha256(network))


def _read_checkpoint(file: Path, average: int) -> tuple[str, Any, Mapping[str, Tensor]]:
    try:
        with zipfile.ZipFile(file) as archive:  # a file that was cut or has other bytes than once
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        method_name, config = saved["method_name"], saved["config"]
        sets = [saved["networks"]] if average == RAW else list(saved["ema"])
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
    ) as error:
        raise ValueError(
            f"method.autoencoder: {file} is damaged, or no checkpoint of this project: "
            f"{_reason(error)}"
        ) from None
    if not RAW <= average < len(sets):
        raise ValueError(
            f"method.autoencoder_average: {file} has no average number {average}; they count from "
            f"0, and {RAW} takes the raw weights"
        )
    return method_name, config, sets[max(average, 0)].get(NETWORK, {})


def _read_exported(file: Path, average: int) -> tuple[str, Any, Mapping[str, Tensor]]:
    prefix = f"{NETWORK}/"
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {
                key.removeprefix(prefix): opened.get_tensor(key)
                for key in opened.keys()  # noqa: SIM118
                if key.startswith(prefix)
            }
        method_name, config = metadata["method_name"], json.loads(metadata["config"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"method.autoencoder: {file} is damaged, or not exported by this project: "
            f"{_reason(error)}"
        ) from None
    if average > 0:
        raise ValueError(
            f"method.autoencoder_average: {file} holds exported weights, one set of them; leave it "
            f"at 0, got {average}"
        )
    return method_name, config, state


def _at_once(pixels: int) -> int:
    return max(1, PIXELS_AT_ONCE // pixels)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(" ".join(lines).split())[:200]
