"""The small classifier with an image network."""

from __future__ import annotations

import pytest
import torch

from models.priors.weights import timm_model
from tools.diagnosis.augment import normalise
from tools.diagnosis.frame_classifier import NAME, FrameClassifier


@pytest.fixture(scope="module")
def classifier() -> FrameClassifier:
    torch.manual_seed(0)
    return FrameClassifier(frames=2, image_size=32, weights="package")


def clips(count: int = 2, frames: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, frames, 3, 32, 32)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_frames_are_seen_as_the_weights_want_them(classifier: FrameClassifier) -> None:
    pixels = clips()[0]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    model = timm_model(NAME, "package").eval()
    with torch.no_grad():
        wanted = model.bn1(model.conv_stem((pixels.float() / 255 - mean) / deviation))
        for stage in model.blocks[:5]:
            wanted = stage(wanted)
        found = classifier._maps((normalise(pixels) - classifier.mean) / classifier.deviation)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_features_do_not_depend_on_the_order_of_frames(classifier: FrameClassifier) -> None:
    videos = normalise(clips())
    with torch.no_grad():
        assert torch.allclose(
            classifier.features(videos), classifier.features(videos.flip(1)), atol=1e-5
        )
        assert classifier(videos).shape == (2, 2)


def test_statistics_stay_those_of_the_weights(classifier: FrameClassifier) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        first = classifier.train()(normalise(clips()))
        assert torch.equal(classifier.eval()(normalise(clips())), first)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_parameter_has_a_layer_and_learns(classifier: FrameClassifier) -> None:
    classifier.train().zero_grad()
    classifier(normalise(clips())).square().sum().backward()
    layers = set()
    for name, parameter in classifier.named_parameters():
        layers.add(classifier.layer_of(name))
        assert parameter.grad is not None, name
    assert layers == set(range(classifier.sizes.depth + 2))
    with pytest.raises(ValueError, match="no parameter"):
        classifier.layer_of("mean")


def test_the_checksum_is_that_of_the_image_network(classifier: FrameClassifier) -> None:
    torch.manual_seed(5)
    other = FrameClassifier(frames=1, image_size=16, weights="package")
    assert other.checksum == classifier.checksum
    assert classifier.checksum is not None
    assert FrameClassifier(frames=1, image_size=16).checksum is None


def test_clips_of_another_shape_and_sizes_that_make_no_network() -> None:
    network = FrameClassifier(frames=2, image_size=16)
    with pytest.raises(ValueError, match=r"takes clips \(B, 2, 3, 16, 16\)"):
        network(torch.zeros(1, 3, 3, 16, 16))
    with pytest.raises(ValueError, match="frames of 16 pixels or more"):
        FrameClassifier(frames=2, image_size=8)
