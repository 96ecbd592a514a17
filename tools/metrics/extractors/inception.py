"""Inception-v3 of 2015 for FID, KID and the inception score: torch-fidelity's network alone."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from tools.metrics.extractors.network import (
    NetworkExtractor,
    load_tensors,
    missing_package,
)
from tools.metrics.weights import WeightsFile

VERSION = "inception-v3-2015-12-05"
WIDTH, CLASSES = 2048, 1008


class InceptionExtractor(NetworkExtractor):
    """The 2048 pooled features, and the 1008 logits without the last layer's bias, of images.

    The network resizes to 299 x 299 by itself, as TensorFlow 1 did (no half-pixel centres, no
    low-pass).
    """

    name = "inception"
    frames = 1
    comparable = True
    outputs = {"features": WIDTH, "logits": CLASSES}  # noqa: RUF012

    def __init__(self, device: torch.device, weights: WeightsFile) -> None:
        super().__init__(device)
        self.network = build_network(weights).to(device)
        self.adopt(VERSION, weights)

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        features, logits = self.network(videos.flatten(0, 1))
        return {"features": features, "logits": logits}


def build_network(weights: WeightsFile) -> Any:
    """torch-fidelity's class around tensors that were read safely.

    The class reads its weights by itself and without torch's safe mode; it is handed a pickle
    that was just written from the checked file's tensors.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise missing_package("FID, KID and IS", "torch-fidelity", "torch-fidelity>=0.4") from None
    safe = io.BytesIO()
    torch.save(dict(load_tensors(weights.path)), safe)
    safe.seek(0)
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=safe,
        )
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights.path}: not weights of this Inception: {reason}") from None
