"""DINOv2 ViT-L/14 through timm, for the Frechet distance FD-DINOv2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.priors.features import resized_positions
from models.priors.weights import load_state
from tools.metrics.extractors.network import (
    NetworkExtractor,
    load_strictly,
    resized,
)
from tools.metrics.weights import WeightsFile

VERSION = "dinov2-v1"
MODEL = "vit_large_patch14_dinov2"
SIZE = 224  # as in the public evaluations; the network was trained with 518
WIDTH = 1024
CAVEAT = (
    "prior guidance optimises agreement with DINO features, which may favour models trained with it"
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, pixels in 0..1


class DinoV2Extractor(NetworkExtractor):
    """The 1024 numbers of the class token of images, squeezed to 224 x 224 (bicubic, antialias).

    Source:  Stein et al., "Exposing flaws of generative model evaluation metrics", 2023
    """

    name = "dinov2"
    frames = 1
    comparable = True
    outputs = {"features": WIDTH}  # noqa: RUF012
    caveat = CAVEAT

    def __init__(self, device: torch.device, weights: WeightsFile, model: str = MODEL) -> None:
        super().__init__(device)
        self.network = build_network(weights, model).to(device)
        self.outputs = {"features": self.network.embed_dim}
        self.adopt(VERSION, weights)
        self.mean = 255 * torch.tensor(MEAN, device=device)[:, None, None]
        self.deviation = 255 * torch.tensor(DEVIATION, device=device)[:, None, None]

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        images = resized(videos.flatten(0, 1).float(), SIZE, "bicubic")
        return {"features": self.network((images - self.mean) / self.deviation)}


def build_network(weights: WeightsFile, model: str = MODEL) -> Any:
    """timm's network at 224 pixels with a published file's weights: Meta's own, or timm's.

    The position table is interpolated as DINO does it. Raises ValueError for other weights.
    """
    import timm

    network: Any = timm.create_model(model, pretrained=False, num_classes=0, img_size=SIZE)
    state = dict(load_state(weights.path))
    state.pop("mask_token", None)  # of the training alone
    table = state.get("pos_embed")
    if isinstance(table, Tensor) and table.ndim == 3:
        side = round((table.shape[1] - 1) ** 0.5)
        if side**2 == table.shape[1] - 1:
            state["pos_embed"] = resized_positions(
                table, (side, side), network.patch_embed.grid_size
            )
    load_strictly(network, state, weights.path)
    return network.eval().requires_grad_(False)
