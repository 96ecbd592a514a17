"""The patch autoencoder starts as an orthonormal cosine transform."""

from __future__ import annotations

import pytest
import torch

from models.backbones.patch_autoencoder import PatchAutoencoder, cosine_basis


def smooth_images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 5, 5, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(-1, 1)


def test_the_basis_is_orthonormal() -> None:
    basis = cosine_basis(24, 8).flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(24), atol=1e-5, rtol=0)


def test_the_first_patterns_are_light_and_its_slopes() -> None:
    basis = cosine_basis(4, 8)
    assert basis[0].std() == pytest.approx(0, abs=1e-6)
    assert sum(float(each.sum((1, 2)).abs().max() < 1e-4) for each in basis[1:3]) == 2


def test_all_channels_are_lossless_and_fewer_keep_smooth_pictures() -> None:
    images = smooth_images()
    complete = PatchAutoencoder(192).eval()
    torch.testing.assert_close(complete(images), images, atol=1e-5, rtol=0)
    errors = [
        (PatchAutoencoder(channels).eval()(images) - images).square().mean()
        for channels in (3, 12, 24, 48)
    ]
    assert errors == sorted(errors, reverse=True)
    assert -10 * torch.log10(errors[2] / 4) > 27  # decibels


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_normalised_latents_have_unit_variance_on_average(whitening: float) -> None:
    network = PatchAutoencoder(12, whitening=whitening)
    images = smooth_images()
    for _ in range(500):
        network(images)
    latents = network.encode(images)
    variances = latents.var((0, 2, 3))
    assert variances.mean().item() == pytest.approx(1, rel=0.02)
    spread = (variances.max() / variances.min()).item()
    if whitening == 1:
        assert spread == pytest.approx(1, rel=0.05)
    else:
        assert spread > 5
    torch.testing.assert_close(network.decode(latents), network.eval()(images), atol=1e-4, rtol=0)


def test_a_frozen_encoder_keeps_its_latents() -> None:
    network = PatchAutoencoder(12)
    network(smooth_images())
    network.freeze_encoder()
    before = network.encode(smooth_images())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(smooth_images() * 0.5, noise=0.3).square().mean().backward()
        optimizer.step()
    assert torch.equal(network.encode(smooth_images()), before)
    assert network.decoder.weight.grad is not None


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 192"):
        PatchAutoencoder(193)
