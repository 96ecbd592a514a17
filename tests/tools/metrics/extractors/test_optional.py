"""Extractors around packages or files that most machines lack: DINOv2, VideoMAE, V-JEPA."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from models.priors.features import resized_positions
from tools.metrics.extractors.dinov2 import DinoV2Extractor
from tools.metrics.extractors.videomae import VideoMAEExtractor
from tools.metrics.extractors.vjepa import VJepaExtractor, build_network
from tools.metrics.weights import WeightsFile

CPU = torch.device("cpu")
SMALL = "vit_small_patch14_dinov2"


def saved(contents: Any, path: Path, verified: bool = True) -> WeightsFile:
    torch.save(contents, path)
    return WeightsFile(path, path.name.encode().hex().ljust(64, "0"), verified, "seeded", "none")


def clips(frames: int = 16, count: int = 2, side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, side, side), generator=generator).to(
        torch.uint8
    )


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """A small DINOv2 in the layout of Meta's file: 518 pixels, and a mask token of training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(SMALL, num_classes=0, pretrained=False)
        nn.init.normal_(network.pos_embed, std=0.5)
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 384)}
    return saved(state, tmp_path_factory.mktemp("dino") / "dinov2.pth")


def test_dinov2_gives_the_class_token_of_normalised_frames(dino: WeightsFile) -> None:
    extractor = DinoV2Extractor(CPU, dino, SMALL)
    state = torch.load(dino.path, weights_only=True)
    table = resized_positions(state["pos_embed"], (37, 37), (16, 16))
    torch.testing.assert_close(extractor.network.pos_embed, table)
    frames = clips(frames=1, side=224)
    outputs = extractor(frames)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.no_grad():
        tokens = extractor.network.forward_features((frames[:, 0] / 255 - mean) / deviation)
    torch.testing.assert_close(outputs["features"], tokens[:, 0], rtol=1e-3, atol=1e-4)
    assert extractor.outputs == {"features": 384}
    assert "prior guidance" in extractor.caveat
    assert extractor.comparable


def test_unverified_weights_keep_the_other_caveat(dino: WeightsFile) -> None:
    extractor = DinoV2Extractor(CPU, dataclasses.replace(dino, verified=False), SMALL)
    assert not extractor.comparable
    assert "prior guidance" in extractor.caveat
    assert "unverified weights" in extractor.caveat


def test_weights_of_another_transformer_are_refused(dino: WeightsFile) -> None:
    with pytest.raises(ValueError, match=r"dinov2\.pth: not weights of this network"):
        DinoV2Extractor(CPU, dino, "vit_base_patch14_dinov2")


class PooledFrames(nn.Module):
    """Where a video transformer would be: remembers its input, and tells clips apart."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.seen: list[Tensor] = []
        self.embed_dim, self.num_heads = 3, 1

    def forward_features(self, videos: Tensor) -> Tensor:
        self.seen.append(videos)
        return (videos.mean((2, 3, 4)) * self.scale).repeat(1, 470)[:, :1408]

    def forward(self, videos: Tensor) -> Tensor:
        self.seen.append(videos)
        return videos.mean((3, 4)).transpose(1, 2) * self.scale


def install(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Let `name` be importable, as a module with these contents."""
    parts = name.split(".")
    for k in range(1, len(parts) + 1):
        path = ".".join(parts[:k])
        module = sys.modules.get(path)
        if module is None or k == len(parts):
            module = ModuleType(path)
            monkeypatch.setitem(sys.modules, path, module)
    for key, value in contents.items():
        setattr(module, key, value)


def test_videomae_sees_frames_in_0_to_1_at_224_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    install(
        monkeypatch,
        "cdfvd.third_party.VideoMAEv2.videomaev2_finetune",
        vit_giant_patch14_224=lambda **settings: (asked.append(settings), PooledFrames())[1],
    )
    arguments = argparse.Namespace(epochs=3)
    weights = saved(
        {"module": {"scale": torch.tensor([1.0, 2, 3])}, "args": arguments}, tmp_path / "mae.pth"
    )
    extractor = VideoMAEExtractor(CPU, 16, weights)
    outputs = extractor(clips())
    assert outputs["features"].shape == (2, 1408)
    assert asked[0]["all_frames"] == 16
    assert asked[0]["num_classes"] == 174
    (seen,) = extractor.network.seen
    assert seen.shape == (2, 3, 16, 224, 224)
    assert 0 <= seen.min() < 0.1
    assert 0.9 < seen.max() <= 1
    mean = (clips().float() / 255).mean((1, 3, 4)) * torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(outputs["features"][:, :3], mean, rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="clips of 16 frames, got 8"):
        VideoMAEExtractor(CPU, 8, weights)
    with pytest.raises(ValueError, match=r"other\.pth: not weights of this network"):
        VideoMAEExtractor(CPU, 16, saved({"head": torch.zeros(1)}, tmp_path / "other.pth"))


def test_vjepa_pools_normalised_frames_with_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pooler(nn.Module):
        def __init__(self, embed_dim: int, num_heads: int, depth: int) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.zeros(embed_dim))

        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.mean(1, keepdim=True) + self.query

    install(monkeypatch, "vjepa.models.attentive_pooler", AttentivePooler=Pooler)
    install(monkeypatch, "vjepa", models=ModuleType("vjepa.models"))
    sys.modules["vjepa"].models.vit_huge = lambda **settings: PooledFrames()
    encoder = saved(
        {"target_encoder": {"module.backbone.scale": torch.ones(3)}, "epoch": 1},
        tmp_path / "vith16.pth.tar",
    )
    probe = saved(
        {
            "classifier": {
                "module.pooler.query": torch.tensor([0.0, 1, 2]),
                "module.linear.weight": torch.zeros(2, 3),
            }
        },
        tmp_path / "probe.pth.tar",
        verified=False,
    )
    extractor = VJepaExtractor(CPU, 16, encoder, probe)
    extractor.outputs = {"features": 3}
    mean = torch.tensor([0.485, 0.456, 0.406])
    deviation = torch.tensor([0.229, 0.224, 0.225])
    expected = ((clips().float() / 255).mean((1, 3, 4)) - mean) / deviation
    features = extractor(clips())["features"]
    torch.testing.assert_close(features, expected + torch.arange(3), rtol=0, atol=0.05)
    assert not extractor.comparable
    assert not extractor.provenance["verified"]
    assert extractor.provenance["others"][0]["file"] == "probe.pth.tar"
    assert "unverified weights" in extractor.caveat
    with pytest.raises(ValueError, match="not a V-JEPA checkpoint: it has no 'target_encoder'"):
        VJepaExtractor(CPU, 16, probe, probe)
    with pytest.raises(ValueError, match="clips of 16 frames, got 32"):
        VJepaExtractor(CPU, 32, encoder, probe)


def test_the_vjepa_package_has_the_networks_we_ask_for(tmp_path: Path) -> None:
    models = pytest.importorskip("vjepa.models", reason="the package vjepa is not installed")
    from vjepa.models.attentive_pooler import AttentiveClassifier

    network = models.vit_tiny(img_size=32, num_frames=16, tubelet_size=2, uniform_power=True)
    classifier = AttentiveClassifier(embed_dim=192, num_heads=3, depth=1, num_classes=4)
    encoder = {f"module.backbone.{name}": value for name, value in network.state_dict().items()}
    probe = {f"module.{name}": value for name, value in classifier.state_dict().items()}
    built = build_network(
        saved({"target_encoder": encoder}, tmp_path / "encoder.pth"),
        saved({"classifier": probe}, tmp_path / "probe.pth"),
        "vit_tiny",
        32,
    )
    assert [len(part.state_dict()) for part in built] == [len(encoder), len(probe) - 2]


@pytest.mark.parametrize(
    ("package", "make", "command"),
    [
        (
            "cdfvd",
            lambda weights: VideoMAEExtractor(CPU, 16, weights),
            "CD-FVD needs the package cd-fvd.*pip install --no-deps 'cd-fvd==0.1.1'",
        ),
        (
            "vjepa",
            lambda weights: VJepaExtractor(CPU, 16, weights, weights),
            "JEDi needs the package vjepa.*pip install --no-deps 'vjepa==0.1.2'",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    package: str, make: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=command):
        make(saved({}, tmp_path / "weights.pth"))
