"""The table of samplers: from the same noise, counted, and with the first choice as reference."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from configs.shapes import VideoShape
from models.codecs.build import CodecConfig
from models.methods.endora import Endora, EndoraConfig, EndoraSampling, TransformerConfig
from models.priors.features import PriorConfig
from tools import sampling_study
from tools.benchmarking.sampling import compare, markdown, psnr, sample_all
from tools.metrics.features import FeatureExtractor
from tools.training.runtime import Runtime


class Means(FeatureExtractor):
    """Colour means of the first and the last frame."""

    name, frames, outputs, comparable, fingerprint = "means", 4, {"features": 6}, False, "0"
    provenance = {}  # noqa: RUF012

    def __call__(self, videos: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": videos[:, [0, -1]].float().mean((-1, -2)).flatten(1)}


def test_choices_are_compared_from_the_same_noise() -> None:
    torch.manual_seed(0)
    config = EndoraConfig(
        transformer=TransformerConfig(depth=2, width=16, heads=2),
        codec=CodecConfig(name="pixels", weights=None, stride=2),
        prior=PriorConfig(weight=0.0),
    )
    method = Endora(config, VideoShape(4, 3, 8, 8), training=False)
    denoiser = method.build_networks()["denoiser"].eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    choices = [
        EndoraSampling(sampler="ddim", steps=20),
        EndoraSampling(sampler="ddim", steps=20, reuse=1e9),
        EndoraSampling(sampler="unipc3", steps=10),
    ]
    lines: list[str] = []
    runtime = Runtime(torch.device("cpu"))
    sampled = sample_all(method, denoiser, choices, runtime, 6, 4, lines.append)  # type: ignore[arg-type]
    assert [len(each.seconds) for each in sampled] == [2, 2, 2]
    assert sampled[0].videos.shape == (6, 4, 3, 8, 8)
    rows = compare(choices, sampled, [Means()], {}, lines.append)
    assert [row.evaluations for row in rows] == [20, 2, 10]
    assert [row.name for row in rows] == ["ddim 20", "ddim 20, reuse 1e+09", "unipc3 10"]
    assert rows[0].psnr == math.inf
    assert rows[0].speedup == 1
    assert rows[0].to_first["means"].value == pytest.approx(0, abs=1e-6)
    assert all(0 < row.psnr < 100 for row in rows[1:])
    assert all(row.to_first["means"].value > 0 for row in rows[1:])
    table = markdown(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1


def test_psnr_is_of_each_video() -> None:
    black = torch.zeros(2, 1, 3, 2, 2, dtype=torch.uint8)
    other = black.clone()
    other[0] += 255
    other[1] += 1
    assert psnr(other, black) == pytest.approx((0 + 20 * math.log10(255)) / 2)


def test_another_method_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    weights = root / "configs" / "demo" / "weights" / "autoencoder.safetensors"
    arguments = ["study", "--checkpoint", str(weights), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ValueError, match="of the method endora alone"):
        sampling_study.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--videos", "0"], "--videos: a distance needs at least 2, got 0"),
        (["--batch-size", "0"], "--batch-size: at least 1"),
        (["--output", "FILE"], "FILE: File exists; a file is where a folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    wrong: list[str],
    message: str,
) -> None:
    weights = root / "configs" / "demo" / "weights" / "endora.safetensors"
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(root)
    arguments = ["study", "--checkpoint", str(weights), "--output", str(tmp_path / "out")]
    wrong = [str(tmp_path / part) if part == "FILE" else part for part in wrong]
    monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
    monkeypatch.setattr(sampling_study, "sample_all", lambda *_: pytest.fail("it sampled"))
    with pytest.raises((ValueError, OSError), match=message):
        sampling_study.main()
