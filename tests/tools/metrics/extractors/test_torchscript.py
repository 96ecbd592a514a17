from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tools.metrics.extractors.registry import build_extractor
from tools.metrics.extractors.torchscript import C3DExtractor, I3DExtractor
from tools.metrics.weights import KNOWN, WeightsFile, WeightsOptions, file_digest

CPU = torch.device("cpu")

# The published files are TorchScript, which new releases of torch read but no longer recommend.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class StandInI3D(nn.Module):
    """Called as the real file is: 400 numbers that tell channels, time and value range."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * 400).reshape(3, 400))

    def forward(
        self,
        x: Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> Tensor:
        if rescale:
            x = x / 127.5 - 1
        if resize:
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = nn.functional.interpolate(frames, (32, 32), mode="bilinear")
            x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        moments = x.mean((3, 4)) * torch.arange(1, x.shape[2] + 1, device=x.device)
        values = moments.mean(2) @ self.weight
        return values if return_features else values.softmax(1)


class StandInC3D(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x.mean((2, 3, 4))[:, :1] * torch.linspace(0, 1, 101, device=x.device)
        return (scores / 50).softmax(1)


def saved(network: nn.Module, path: Path, name: str) -> WeightsFile:
    torch.jit.script(network).save(str(path))
    known = KNOWN[name]
    return WeightsFile(path, file_digest(path), True, known.source, known.licence)


def clips(count: int = 3, frames: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, 40, 40), generator=generator).to(torch.uint8)


def test_i3d_is_called_as_fvd_needs_it(tmp_path: Path) -> None:
    extractor = I3DExtractor(CPU, 16, saved(StandInI3D(), tmp_path / "i3d.pt", "i3d"))
    outputs = extractor(clips())
    expected = StandInI3D()(
        clips().transpose(1, 2).float(), rescale=True, resize=True, return_features=True
    )
    assert outputs["features"].shape == (3, 400)
    torch.testing.assert_close(outputs["features"], expected.detach(), rtol=0, atol=1e-6)
    assert extractor.comparable
    assert extractor.provenance["file"] == "i3d.pt"
    again = extractor(clips())["features"]
    assert torch.equal(outputs["features"], again)


def test_the_checksum_is_compared_before_torch_opens_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    load = torch.jit.load
    monkeypatch.setattr(
        torch.jit, "load", lambda path, **rest: (opened.append(path), load(path, **rest))[1]
    )
    weights = saved(StandInI3D(), tmp_path / "i3d.pt", "i3d")
    options = WeightsOptions(tmp_path, {"i3d": weights.path})
    with pytest.raises(ValueError, match="not the I3D weights"):
        build_extractor("i3d", options, CPU)
    assert opened == []
    monkeypatch.setitem(KNOWN, "i3d", dataclasses.replace(KNOWN["i3d"], sha256=weights.sha256))
    extractor = build_extractor("i3d", options, CPU)
    assert opened == [str(weights.path)]
    assert extractor.provenance["sha256"] == weights.sha256


def test_unverified_weights_are_not_comparable(tmp_path: Path) -> None:
    weights = saved(StandInI3D(), tmp_path / "i3d.pt", "i3d")
    options = WeightsOptions(tmp_path, {"i3d": weights.path}, trust=True)
    extractor = build_extractor("i3d", options, CPU)
    assert not extractor.comparable
    assert "unverified weights" in extractor.caveat


def test_short_clips_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    weights = saved(StandInI3D(), tmp_path / "i3d.pt", "i3d")
    with pytest.raises(ValueError, match="at least 10 frames, got 9"):
        I3DExtractor(CPU, 9, weights)
    assert I3DExtractor(CPU, 10, weights)(clips(frames=10))["features"].shape == (3, 400)


def test_i3d_weights_belong_to_their_clip_length_and_file(tmp_path: Path) -> None:
    weights = saved(StandInI3D(), tmp_path / "i3d.pt", "i3d")
    other = dataclasses.replace(weights, sha256="0" * 64)
    prints = {
        I3DExtractor(CPU, frames, file).fingerprint
        for frames, file in ((16, weights), (32, weights), (16, other))
    }
    assert len(prints) == 3


def test_another_network_or_another_file_is_named(tmp_path: Path) -> None:
    class Narrow(StandInI3D):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 7))

    extractor = I3DExtractor(CPU, 16, saved(Narrow(), tmp_path / "narrow.pt", "i3d"))
    with pytest.raises(ValueError, match=r"narrow\.pt: not a network for i3d"):
        extractor(clips())
    (tmp_path / "text.pt").write_text("not TorchScript")
    weights = WeightsFile(tmp_path / "text.pt", "0" * 64, True, "", "")
    with pytest.raises(ValueError, match=r"text\.pt: not a readable TorchScript file"):
        I3DExtractor(CPU, 16, weights)


def test_c3d_gives_logarithms_of_its_probabilities(tmp_path: Path) -> None:
    weights = saved(StandInC3D(), tmp_path / "c3d.pt", "c3d")
    outputs = C3DExtractor(CPU, 16, weights)(clips())
    expected = StandInC3D()(clips().transpose(1, 2).float())
    assert outputs["logits"].shape == (3, 101)
    torch.testing.assert_close(outputs["logits"].softmax(1), expected)
    with pytest.raises(ValueError, match="clips of 16 frames, got 12"):
        C3DExtractor(CPU, 12, weights)


def test_c3d_without_probabilities_is_refused(tmp_path: Path) -> None:
    class Raw(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3, 4))[:, :1].expand(-1, 101)

    extractor = C3DExtractor(CPU, 16, saved(Raw(), tmp_path / "raw.pt", "c3d"))
    with pytest.raises(ValueError, match="no probabilities"):
        extractor(clips())
