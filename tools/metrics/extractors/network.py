"""What extractors share: an input check, exact float32 arithmetic, and an identity."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.metrics.features import FeatureExtractor
from tools.metrics.weights import WeightsFile

UNVERIFIED = "unverified weights: their SHA-256 is not a published one"


class NetworkExtractor(FeatureExtractor):
    """An extractor around a torch network: subclasses say what happens to valid input."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def adopt(self, version: str, *files: WeightsFile) -> None:
        """Take identity, provenance and comparability from the files of weights.

        The first file is the network's own, others belong to it; `version` is that of our code.
        """
        first, *others = files
        self.provenance = first.provenance()
        if others:
            self.provenance["others"] = [file.provenance() for file in others]
        digests = [file.sha256 for file in files]
        self.fingerprint = fingerprint(version, str(self.frames), *digests)
        if not all(file.verified for file in files):
            self.comparable = False
            self.provenance["verified"] = False
            self.caveat = "; ".join(filter(None, [self.caveat, UNVERIFIED]))

    @abstractmethod
    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        """(B, frames, 3, H, W) uint8 on the device -> (B, width) for each of `outputs`."""

    def __call__(self, videos: Tensor) -> dict[str, Tensor]:
        """(B, frames, 3, H, W) uint8 -> (B, width) float32 for each of `outputs`, on the CPU.

        Raises ValueError for another type or shape.
        """
        if videos.dtype != torch.uint8 or videos.ndim != 5 or videos.shape[1:3] != (self.frames, 3):
            raise ValueError(
                f"{self.name} takes uint8 videos of shape (B, {self.frames}, 3, H, W), "
                f"got {videos.dtype} {tuple(videos.shape)}"
            )
        with exact_arithmetic():
            outputs = self.compute(videos.to(self.device))
        return {name: outputs[name].float().cpu() for name in self.outputs}


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and repeatable kernels, without gradients, whatever the surroundings use.

    Scores must not depend on the TF32 or bfloat16 that training chose.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def resized(frames: Tensor, size: int, mode: str) -> Tensor:
    """(N, 3, H, W) in 0..255 -> (N, 3, size, size), squeezed, low-passed where it shrinks."""
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, (size, size), mode=mode, antialias=True).clamp(0, 255)


def fingerprint(*parts: str) -> str:
    """One SHA-256 over the parts of an identity: version of the code, digest of the weights."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def load_tensors(path: Path) -> Mapping[str, Any]:
    """The contents of a checkpoint, read in torch's safe mode: tensors and plain values only.

    Raises ValueError for a file that is damaged or holds anything else.
    """
    try:
        # Training checkpoints often carry their arguments, a plain holder of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - unpickling raises many kinds for a broken file
        raise ValueError(f"{path}: not a readable weight file ({type(error).__name__})") from None
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path}: not a weight file: it holds a {type(contents).__name__}")
    return contents


def load_strictly(network: Any, state: Mapping[str, Any], path: Path) -> None:
    """Fill a network. Raises ValueError, naming the file, where tensors are missing or too many."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not weights of this network: {reason}") from None


def missing_package(what: str, package: str, requirement: str) -> ValueError:
    """The error for an optional package that is not installed."""
    return ValueError(
        f"{what} needs the package {package}, which is not installed; run: "
        f"pip install --no-deps '{requirement}'"
    )
