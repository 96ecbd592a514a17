"""Networks that come as TorchScript files: I3D for FVD, and C3D for the video inception score."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from tools.metrics.extractors.network import NetworkExtractor
from tools.metrics.weights import WeightsFile

FEWEST_FRAMES = 10  # I3D halves the time axis until nothing is left of shorter clips
C3D_FRAMES = 16
KINETICS, UCF = 400, 101  # classes


class ScriptExtractor(NetworkExtractor):
    """A network behind a TorchScript file, whose checksum `find_weights` has compared before."""

    version: str
    comparable = True

    def __init__(self, device: torch.device, frames: int, weights: WeightsFile) -> None:
        super().__init__(device)
        self.frames = frames
        self.adopt(self.version, weights)
        self.network = load_script(weights, device)

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        # The same kernels from the first call on: bit-identical runs are worth more here than
        # what the profiling executor would gain.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            values = self.values(videos.transpose(1, 2).float().contiguous())
        width = self.outputs["features"]
        if not isinstance(values, Tensor) or values.shape != (len(videos), width):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{self.provenance['file']}: not a network for {self.name}: expected "
                f"({len(videos)}, {width}) values, got {got}"
            )
        return dict.fromkeys(self.outputs, values)

    @abstractmethod
    def values(self, clips: Tensor) -> Any:
        """(B, 3, F, H, W) float32 in 0..255 -> (B, width)."""


class I3DExtractor(ScriptExtractor):
    """FVD's features: the 400 Kinetics logits of I3D, averaged over time.

    The file rescales to [-1, 1] and resizes to 224 x 224 by itself. Raises ValueError for clips of
    fewer than 10 frames.
    """

    name = "i3d"
    version = "i3d-v1"
    outputs = {"features": KINETICS, "logits": KINETICS}  # noqa: RUF012

    def __init__(self, device: torch.device, frames: int, weights: WeightsFile) -> None:
        if frames < FEWEST_FRAMES:
            raise ValueError(
                f"FVD's I3D needs clips of at least {FEWEST_FRAMES} frames, got {frames}"
            )
        super().__init__(device, frames, weights)

    def values(self, clips: Tensor) -> Any:
        return self.network(clips, rescale=True, resize=True, return_features=True)


class C3DExtractor(ScriptExtractor):
    """Class probabilities of 16-frame clips among UCF-101's actions, as their logarithms.

    The file ends with a softmax; logarithms are logits of the same probabilities. It normalises
    and resizes by itself.
    """

    name = "c3d"
    version = "c3d-v1"
    outputs = {"features": UCF, "logits": UCF}  # noqa: RUF012

    def __init__(self, device: torch.device, frames: int, weights: WeightsFile) -> None:
        if frames != C3D_FRAMES:
            raise ValueError(
                f"the video inception score's C3D takes clips of {C3D_FRAMES} frames, got {frames}"
            )
        super().__init__(device, frames, weights)

    def values(self, clips: Tensor) -> Any:
        probabilities = self.network(clips)
        sums = probabilities.sum(1)
        if probabilities.min() < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise ValueError(f"{self.provenance['file']}: its outputs are no probabilities")
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def load_script(weights: WeightsFile, device: torch.device) -> Any:
    """The network in evaluation mode. Raises ValueError for a file that is no TorchScript."""
    try:
        with warnings.catch_warnings():  # torch reads TorchScript, but no longer recommends it
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(weights.path), map_location=device)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights.path}: not a readable TorchScript file: {reason}") from None
    return network.eval()
