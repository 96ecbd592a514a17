from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.metrics.extractors import network
from tools.metrics.extractors.network import exact_arithmetic, fingerprint, state_digest
from tools.metrics.extractors.registry import build_extractor, extractor_names
from tools.metrics.weights import MissingWeights, WeightsOptions

CPU = torch.device("cpu")
OFFLINE = ("untrained-clips", "untrained-images", "efficientnet-clips", "efficientnet-images")


@pytest.mark.parametrize("name", OFFLINE)
def test_extractors_without_weights_files_are_built_offline(name: str, tmp_path: Path) -> None:
    extractor = build_extractor(name, WeightsOptions(tmp_path), CPU, frames=5)
    assert extractor.frames == (5 if name.endswith("clips") else 1)
    assert extractor.outputs.keys() == {"features", "logits"}
    assert not extractor.comparable
    assert len(extractor.fingerprint) == 64
    assert {"file", "sha256", "verified", "source", "licence"} <= extractor.provenance.keys()


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("i3d", "FVD"),
        ("c3d", "the video inception score"),
        ("inception", "FID, KID and IS"),
        ("dinov2", "FD-DINOv2"),
        ("videomae", "CD-FVD"),
        ("vjepa", "JEDi"),
    ],
)
def test_the_others_say_which_weights_they_need(
    name: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"ENDORA_WEIGHTS_{name.upper()}", raising=False)
    with pytest.raises(
        MissingWeights, match=rf"^{metric} needs the .* weights .*--weights {name}="
    ):
        build_extractor(name, WeightsOptions(tmp_path), CPU)
    with pytest.raises(MissingWeights, match=r"^Our metric needs"):
        build_extractor(name, WeightsOptions(tmp_path), CPU, metric="Our metric")


def test_every_extractor_is_known_by_name(tmp_path: Path) -> None:
    assert set(OFFLINE) < set(extractor_names())
    with pytest.raises(ValueError, match="no extractor 'resnet'; known: i3d, c3d"):
        build_extractor("resnet", WeightsOptions(tmp_path), CPU)


def test_precision_is_that_of_the_scores_and_comes_back_after() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16), exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_identity_changes_with_every_part() -> None:
    state = {"a": torch.zeros(2), "b": torch.zeros(2)}
    others = [
        {"a": torch.zeros(2), "b": torch.zeros(1, 2)},
        {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.zeros(2), "c": torch.zeros(2)},
        {"a": torch.zeros(2), "b": torch.tensor([0.0, 1e-30])},
    ]
    assert len({state_digest(each) for each in (state, *others)}) == 5
    assert state_digest(dict(reversed(state.items()))) == state_digest(state)
    assert fingerprint("a", "b") != fingerprint("ab")


def test_frames_are_squeezed_within_the_range_of_pixels() -> None:
    edges = torch.zeros(1, 3, 8, 12)
    edges[..., 6:] = 255
    grown = network.resized(edges, 16, "bicubic")
    assert grown.shape == (1, 3, 16, 16)
    assert (grown.min(), grown.max()) == (0, 255)
    assert network.resized(grown, 16, "bicubic") is grown
