"""Codecs: round trips, what they read from their weights, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.backbones.patch_autoencoder import PatchAutoencoder
from models.backbones.tiny_autoencoder import TinyAutoencoder
from models.codecs.build import CodecConfig, build_codec


def videos(size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 3, size, size, generator=generator) * 2 - 1


def test_pixels_round_trip_exactly() -> None:
    codec = build_codec(CodecConfig(name="pixels", weights=None, stride=4))
    latents = codec.encode(videos())
    assert latents.shape == (2, 3, codec.channels, 4, 4) == (2, 3, 48, 4, 4)
    assert torch.equal(codec.decode(latents), videos())


def save_pair(folder: Path, network: TinyAutoencoder, name: str = "small") -> str:
    torch.save(network.encoder.state_dict(), folder / f"{name}_encoder.pth")
    torch.save(network.decoder.half().state_dict(), folder / f"{name}_decoder.pth")
    return str(folder / name)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_tiny_autoencoder_is_rebuilt_from_its_weights(tmp_path: Path, pooled: bool) -> None:
    torch.manual_seed(0)
    network = TinyAutoencoder(
        5, 8, encoder_blocks=(0, 2, 1), decoder_blocks=(1, 0, 2), pooled=pooled
    )
    images = videos().flatten(0, 1)
    encoded = network.encode(images)
    codec = build_codec(CodecConfig(name="tiny", weights=save_pair(tmp_path, network)))
    assert (codec.stride, codec.channels) == (4, 5)
    torch.testing.assert_close(codec.encode(videos()).flatten(0, 1), encoded)
    decoded = codec.decode(codec.encode(videos()))
    assert decoded.shape == videos().shape
    assert decoded.abs().max() <= 1
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def trained_file(folder: Path) -> tuple[str, PatchAutoencoder]:
    """An exported autoencoder with the statistics of some frames, and its network."""
    torch.manual_seed(0)
    network = PatchAutoencoder(channels=7, stride=4, width=8, blocks=1)
    for _ in range(400):
        network(videos().flatten(0, 1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None])
    network.eval()
    path = folder / "trained.safetensors"
    save_file({f"autoencoder/{key}": value for key, value in network.state_dict().items()}, path)
    return str(path), network


def test_a_trained_autoencoder_is_rebuilt_from_its_weights(tmp_path: Path) -> None:
    path, network = trained_file(tmp_path)
    codec = build_codec(CodecConfig(name="trained", weights=path))
    assert (codec.stride, codec.channels) == (4, 7)
    latents = codec.encode(videos())
    torch.testing.assert_close(latents.flatten(0, 1), network.encode(videos().flatten(0, 1)))
    decoded = network.decode(latents.flatten(0, 1)).clamp(-1, 1)
    torch.testing.assert_close(codec.decode(latents).flatten(0, 1), decoded)


def test_chunks_do_not_change_the_result(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TinyAutoencoder(4, 8, (0, 1), (1, 0))
    codec = build_codec(CodecConfig(name="tiny", weights=save_pair(tmp_path, network)))
    whole = codec.encode(videos())
    codec.chunk = 2
    torch.testing.assert_close(codec.encode(videos()), whole)


def test_the_real_tiny_autoencoder_reconstructs_real_clips(shared: Path) -> None:
    from datasets.video_io import read_frames

    codec = build_codec(CodecConfig(name="tiny", weights=str(shared / "data/weights/taef2")))
    assert (codec.stride, codec.channels) == (8, 32)
    path = shared / "data/clips/colonoscopy/colonoscopic_05.mp4"
    clip = read_frames(path, [0, 8])[None].float() / 127.5 - 1
    latents = codec.encode(clip)
    assert latents.std().item() == pytest.approx(0.84, abs=0.1)
    error = (codec.decode(latents) - clip).square().mean()
    assert -10 * torch.log10(error / 4) > 29  # decibels


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_autoencoders_of_diffusers_tell_their_own_scale(tmp_path: Path, kind: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    if kind == "AutoencoderKL":
        model = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=6,
            scaling_factor=0.3,
            shift_factor=0.1,
        )
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=6,
            scaling_factor=0.3,
        )
    model.save_pretrained(tmp_path)
    model.eval()
    codec = build_codec(CodecConfig(name="autoencoder", weights=str(tmp_path)))
    assert (codec.stride, codec.channels) == (2, 6)
    images = videos().flatten(0, 1)
    with torch.no_grad():
        if kind == "AutoencoderKL":
            posterior = model.encode(images).latent_dist
            torch.manual_seed(1)
            expected = (posterior.sample() - 0.1) * 0.3
            decoded = model.decode(expected / 0.3 + 0.1).sample
        else:
            expected = model.encode(images).latents * 0.3
            decoded = model.decode(expected / 0.3).sample
    torch.manual_seed(1)
    latents = codec.encode(videos())
    torch.testing.assert_close(latents.flatten(0, 1), expected)
    torch.testing.assert_close(codec.decode(latents).flatten(0, 1), decoded.clamp(-1, 1))


def test_missing_and_foreign_weights_are_one_line(tmp_path: Path) -> None:
    for name in ("tiny", "trained"):
        with pytest.raises(FileNotFoundError, match=r"method\.codec\.weights: no file .*nothing"):
            build_codec(CodecConfig(name=name, weights=str(tmp_path / "nothing")))  # type: ignore[arg-type]
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="not an exported autoencoder"):
        build_codec(CodecConfig(name="trained", weights=str(tmp_path / "text.safetensors")))
    with pytest.raises(ValueError, match="needs weights"):
        build_codec(CodecConfig(name="tiny", weights=None))
    for half in ("encoder", "decoder"):
        torch.save({"layer.weight": torch.zeros(1)}, tmp_path / f"foreign_{half}.pth")
    with pytest.raises(ValueError, match="foreign"):
        build_codec(CodecConfig(name="tiny", weights=str(tmp_path / "foreign")))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="is a UNet2DModel"):
        build_codec(CodecConfig(weights=str(tmp_path)))


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nlong story")

    monkeypatch.setattr(diffusers.AutoencoderKL, "load_config", refuse)
    with pytest.raises(FileNotFoundError, match="no autoencoder at 'somebody/vae'") as caught:
        build_codec(CodecConfig(weights="somebody/vae"))
    assert "\n" not in str(caught.value)
