"""Codecs: round trips, what they read from their weights, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.backbones.patch_autoencoder import PatchAutoencoder
from models.backbones.tiny_autoencoder import TinyAutoencoder
from models.codecs.build import CodecConfig, build_codec, codec_files
from models.codecs.interface import draw_latents


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


def test_decoding_tries_fewer_frames_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = build_codec(CodecConfig(name="pixels", weights=None, stride=4))
    plain, sizes = codec.decode_images, []

    def small_memory(latents: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > limit:
            raise torch.OutOfMemoryError("no memory left")
        return plain(latents)

    monkeypatch.setattr(codec, "decode_images", small_memory)
    codec.chunk, limit = 4, 1
    assert torch.equal(codec.decode(codec.encode(videos())), videos())
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1]
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        codec.decode(codec.encode(videos()))


def test_decoding_in_bfloat16_is_close_and_float32(tmp_path: Path) -> None:
    codec = build_codec(CodecConfig(name="trained", weights=trained_file(tmp_path)[0]))
    latents = codec.encode(videos())
    exact, quick = codec.decode(latents), codec.decode(latents, bf16=True)
    assert quick.dtype == torch.float32
    assert quick.is_contiguous()
    assert not torch.equal(quick, exact)
    assert (quick - exact).square().mean().sqrt() < 0.02
    with torch.autocast("cpu", torch.bfloat16):  # the rest of sampling may run in it
        assert torch.equal(codec.decode(latents), exact)


def test_encoding_in_bfloat16_is_a_choice_and_close(tmp_path: Path) -> None:
    settings = CodecConfig(name="trained", weights=trained_file(tmp_path)[0])
    exact = build_codec(settings).encode(videos())
    settings.encode = "bf16"
    quick = build_codec(settings).encode(videos())
    assert quick.dtype == torch.float32
    assert not torch.equal(quick, exact)
    assert (quick - exact).square().mean().sqrt() < 0.02 * exact.std()


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

    # Moments that were kept give the same latents, bit for bit, from the same random numbers.
    mean, log_variance = codec.encode_moments(images)
    assert (log_variance is None) == (kind == "AutoencoderTiny")
    kept = None if log_variance is None else log_variance.unflatten(0, (2, 3)).clone()
    torch.manual_seed(1)
    again = draw_latents(mean.unflatten(0, (2, 3)).clone(), kept)
    assert torch.equal(again, latents)
    assert again.is_contiguous()
    assert latents.is_contiguous()
    assert {file.suffix for file in codec_files(CodecConfig(weights=str(tmp_path)))} == {
        ".json",
        ".safetensors",
    }


def test_the_draw_has_the_posterior_s_moments_and_fixed_random_numbers() -> None:
    mean = torch.full((3, 20, 2, 8, 8), 5.0)
    log_variance = torch.full_like(mean, 2 * torch.log(torch.tensor(0.3)).item())
    torch.manual_seed(0)
    drawn = draw_latents(mean, log_variance)
    assert drawn.mean().item() == pytest.approx(5, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.3, abs=0.01)
    torch.manual_seed(0)
    pieces = [torch.randn(n, 2, 8, 8) for n in (16, 16, 16, 12)]  # what diffusers draws
    torch.testing.assert_close(drawn, 5 + 0.3 * torch.cat(pieces).unflatten(0, (3, 20)))
    torch.manual_seed(0)
    rounded = draw_latents(mean, log_variance.half())
    torch.testing.assert_close(rounded, drawn, atol=2e-3, rtol=0)
    state = torch.get_rng_state()
    assert torch.equal(draw_latents(mean, None), mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_files_of_weights_are_those_that_are_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = save_pair(tmp_path, TinyAutoencoder(4, 8, (0, 1), (1, 0)))
    files = codec_files(CodecConfig(name="tiny", weights=pair))
    assert [file.name for file in files] == ["small_encoder.pth", "small_decoder.pth"]
    files[0].unlink()
    assert codec_files(CodecConfig(name="tiny", weights=pair)) == []
    trained = trained_file(tmp_path)[0]
    assert codec_files(CodecConfig(name="trained", weights=trained)) == [Path(trained)]
    assert codec_files(CodecConfig(name="trained", weights=trained + "x")) == []
    assert codec_files(CodecConfig(name="pixels", weights=None)) == []
    assert codec_files(CodecConfig(weights=str(tmp_path / "nowhere"))) == []


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
