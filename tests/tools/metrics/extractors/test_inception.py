from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tools.metrics.extractors.inception import InceptionExtractor
from tools.metrics.frechet import Summary, distance
from tools.metrics.inception_score import inception_score
from tools.metrics.kernel import squared_mmd
from tools.metrics.weights import WeightsFile, file_digest

fidelity = pytest.importorskip("torch_fidelity")
module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

CPU = torch.device("cpu")
COUNT = 5


class Images(Dataset[Tensor]):
    """Uint8 images in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Let torch-fidelity's class be built with a file that holds nothing."""
    with mock.patch.object(module.FeatureExtractorInceptionV3, "load_state_dict"):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """Random weights, scaled so that activations and differences survive all layers."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with without_weights(), torch.random.fork_rng():
        network = module.FeatureExtractorInceptionV3(
            "stand-in", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth")
        )
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for value in state.values():
        if value.ndim == 4:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
        elif value.ndim == 2:
            value.copy_(torch.randn(value.shape, generator=generator))
    torch.save(state, folder / "inception.pth")
    return WeightsFile(
        folder / "inception.pth", file_digest(folder / "inception.pth"), True, "seeded", "none"
    )


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Two sets of coloured patterns of different coarseness, neither square nor of 299 pixels."""
    generator = torch.Generator().manual_seed(1)
    sets = [torch.rand(COUNT, 3, side, side, generator=generator) for side in (3, 8)]
    grown = [torch.nn.functional.interpolate(each, (40, 56), mode="bicubic") for each in sets]
    first, second = ((each.clamp(0, 1) * 255).to(torch.uint8) for each in grown)
    return first, second


@pytest.fixture(scope="module")
def extracted(weights: WeightsFile, images: tuple[Tensor, Tensor]) -> list[dict[str, Tensor]]:
    extractor = InceptionExtractor(CPU, weights)
    return [extractor(each[:, None]) for each in images]


def test_it_gives_pooled_features_and_logits_in_one_pass(
    weights: WeightsFile, extracted: list[dict[str, Tensor]]
) -> None:
    assert extracted[0]["features"].shape == (COUNT, 2048)
    assert extracted[0]["logits"].shape == (COUNT, 1008)
    state = torch.load(weights.path, weights_only=True)
    torch.testing.assert_close(
        extracted[0]["logits"],
        extracted[0]["features"] @ state["fc.weight"].T,
        rtol=1e-4,
        atol=1e-4,
    )


def their_scores(
    weights: WeightsFile, images: tuple[Tensor, Tensor], **metrics: bool
) -> dict[str, float]:
    """What torch-fidelity says of the second set against the first, from images to numbers."""
    return fidelity.calculate_metrics(
        input1=Images(images[1]),
        input2=Images(images[0]),
        feature_extractor_weights_path=str(weights.path),
        cuda=False,
        isc_splits=1,
        kid_subsets=1,
        kid_subset_size=COUNT,
        batch_size=COUNT,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **metrics,
    )


# torch-fidelity's own code and its data loader are not ours to keep free of warnings.
@pytest.mark.filterwarnings("ignore")
def test_kid_and_is_agree_with_torch_fidelity_from_images_on(
    weights: WeightsFile, images: tuple[Tensor, Tensor], extracted: list[dict[str, Tensor]]
) -> None:
    theirs = their_scores(weights, images, isc=True, kid=True)
    real, fake = extracted
    kid = squared_mmd(real["features"], fake["features"])
    score = inception_score(fake["logits"], splits=1).value
    assert abs(kid) > 1e-4  # the random network tells the sets apart
    assert score > 1.01
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert score == pytest.approx(theirs["inception_score_mean"], rel=1e-5)


@pytest.mark.slow  # its root of a 2048 x 2048 matrix takes half a minute
@pytest.mark.filterwarnings("ignore")
def test_fid_agrees_with_torch_fidelity_from_images_on(
    weights: WeightsFile, images: tuple[Tensor, Tensor], extracted: list[dict[str, Tensor]]
) -> None:
    theirs = their_scores(weights, images, fid=True)
    real, fake = (Summary.of(each["features"]) for each in extracted)
    assert distance(real, fake) > 1e-2
    assert distance(real, fake) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


def test_weights_are_read_in_torchs_safe_mode(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({"code": mock.Mock}, tmp_path / "code.pth")
    for name, message in (
        ("text", "not a readable weight file"),
        ("list", "not a weight file: it holds a list"),
        ("other", "not weights of this Inception"),
        ("code", "not a readable weight file"),
    ):
        file = WeightsFile(tmp_path / f"{name}.pth", "0" * 64, True, "", "")
        with pytest.raises(ValueError, match=f"{name}.pth: {message}"):
            InceptionExtractor(CPU, file)
