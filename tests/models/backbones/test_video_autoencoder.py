"""The video autoencoder: golden values, sizes, and what its convolutions must and must not do."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones.video_autoencoder import (
    SameConv,
    SameUpConv,
    VideoAutoencoder,
    border,
    draw,
    kl_divergence,
    split,
    stage_strides,
)


def filled(network: nn.Module) -> nn.Module:
    """Weights by formula: normals seeded with the parameter's name, scaled by its kind."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            generator = np.random.RandomState(zlib.crc32(name.encode()))
            values = generator.standard_normal(tuple(parameter.shape))
            if parameter.ndim > 1:
                values /= np.sqrt(parameter.numel() / parameter.shape[0])
            else:
                values = (1 if name.endswith("weight") else 0) + 0.1 * values
            parameter.copy_(torch.from_numpy(values))
    return network.eval()


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).uniform(-1, 1, shape)).float()


@pytest.fixture(scope="module")
def golden() -> VideoAutoencoder:
    network = filled(VideoAutoencoder())
    assert isinstance(network, VideoAutoencoder)
    return network


@pytest.fixture
def small() -> VideoAutoencoder:
    torch.manual_seed(0)
    return VideoAutoencoder(width=4, groups=4).eval()


def check(output: Tensor, statistics: tuple[float, ...], probes: dict[tuple[int, ...], float]):
    """Mean, population deviation and largest size, and single values."""
    measured = (output.mean(), output.std(unbiased=False), output.abs().max())
    for value, wanted in zip(measured, statistics, strict=True):
        assert float(value) == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    for place, wanted in probes.items():
        assert float(output[place]) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_64_pixel_outputs_are_those_of_the_original(golden: VideoAutoencoder) -> None:
    moments = golden.encode(uniform(0, 1, 3, 8, 64, 64))
    check(
        moments,
        (-0.055667, 0.612164, 2.428364),
        {(0, 0, 0, 0, 0): 0.289916, (0, 3, 1, 7, 7): -0.564038, (0, 4, 0, 0, 0): -0.269765},
    )
    check(
        golden.decode(split(moments)[0]),
        (-0.077207, 1.226023, 5.866319),
        {(0, 0, 0, 0, 0): -0.875232, (0, 1, 3, 32, 32): -1.268577, (0, 2, 7, 63, 63): -0.928168},
    )


@pytest.mark.slow
@torch.no_grad()
def test_128_pixel_outputs_are_those_of_the_original(golden: VideoAutoencoder) -> None:
    moments = golden.encode(uniform(0, 1, 3, 16, 128, 128))
    check(
        moments,
        (-0.026271, 0.593450, 2.680789),
        {(0, 0, 0, 0, 0): -0.723221, (0, 3, 3, 15, 15): 0.356769, (0, 7, 2, 7, 9): -0.557761},
    )
    check(
        golden.decode(split(moments)[0]),
        (-0.079980, 1.241151, 5.287601),
        {(0, 0, 0, 0, 0): -0.635544, (0, 1, 7, 64, 64): -0.4684, (0, 2, 15, 127, 127): -1.140021},
    )
    black = golden.encode(torch.zeros(1, 3, 16, 128, 128))
    check(black, (0.033994, 0.737873, 1.361557), {(0, 0, 0, 0, 0): 0.150261})
    assert torch.allclose(black[0, 0], torch.tensor(0.150261), atol=1e-4)


def test_parameters_are_those_of_the_published_size() -> None:
    with torch.device("meta"):
        network = VideoAutoencoder()

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    parts = (network.encoder, network.decoder, network.quant_conv, network.post_quant_conv)
    assert [count(part) for part in parts] == [7_458_952, 11_987_715, 72, 20]
    assert count(network) == 19_446_759
    with torch.device("meta"):
        assert count(VideoAutoencoder(width=16)) == 4_896_295


def test_parameters_have_the_names_of_published_checkpoints() -> None:
    with torch.device("meta"):
        state = VideoAutoencoder().state_dict()
    assert len(state) == 96
    shapes = {
        "encoder.conv_first.conv.weight": (32, 3, 3, 3, 3),
        "encoder.conv_blocks.0.down.conv.weight": (64, 32, 4, 4, 4),
        "encoder.conv_blocks.2.res.norm2.weight": (256,),
        "encoder.conv_blocks.1.res.conv1.conv.bias": (128,),
        "encoder.final_block.0.weight": (256,),
        "encoder.final_block.2.conv.weight": (8, 256, 3, 3, 3),
        "decoder.conv_blocks.0.up.convt.weight": (4, 256, 4, 4, 4),
        "decoder.conv_blocks.2.res2.conv2.conv.weight": (64, 64, 3, 3, 3),
        "decoder.conv_out.conv.weight": (3, 64, 3, 3, 3),
        "quant_conv.conv.weight": (8, 8, 1, 1, 1),
        "post_quant_conv.conv.weight": (4, 4, 1, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize(
    ("video", "latents"),
    [
        ((16, 128, 128), (4, 16, 16)),
        ((16, 256, 256), (4, 32, 32)),
        ((20, 128, 128), (5, 16, 16)),
        ((4, 64, 64), (1, 8, 8)),
        ((8, 64, 128), (2, 8, 16)),
    ],
)
def test_latents_are_the_video_divided_by_the_factors(
    video: tuple[int, int, int], latents: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        network = VideoAutoencoder()
        moments = network.encode(torch.zeros(2, 3, *video))
        assert moments.shape == (2, 8, *latents)
        assert network.decode(moments[:, :4]).shape == (2, 3, *video)
    assert network.latent_sizes(*video) == latents


@pytest.mark.parametrize(
    ("width", "factors", "channels", "groups"),
    [(8, (1, 4, 4), 3, 4), (4, (2, 8, 8), 6, 8), (4, (8, 2, 4), 4, 4), (3, (1, 1, 2), 1, 2)],
)
@torch.no_grad()
def test_any_depth_and_width_inverts_its_sizes(
    width: int, factors: tuple[int, int, int], channels: int, groups: int
) -> None:
    network = VideoAutoencoder(width, factors, channels, groups)
    videos = torch.zeros(1, 3, 8, 16, 24)
    reconstruction, moments = network(videos)
    sizes = [size // factor for size, factor in zip((8, 16, 24), factors, strict=True)]
    assert moments.shape == (1, 2 * channels, *sizes)
    assert reconstruction.shape == videos.shape


@pytest.mark.parametrize(
    ("shape", "words"),
    [((6, 64, 64), "6 frames"), ((8, 60, 64), "60x64"), ((8, 64, 68), "64x68"), ((0, 8, 8), "0 f")],
)
def test_videos_that_do_not_divide_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        VideoAutoencoder(width=2, groups=4).encode(torch.zeros(1, 3, *shape))
    assert "multiple of" in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 8, "groups": 32},
        {"width": 0},
        {"channels": 0},
        {"factors": (3, 8, 8)},
        {"factors": (4, 8)},
        {"factors": (1, 1, 1)},
        {"factors": (0, 8, 8)},
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"."):
        VideoAutoencoder(**settings)  # type: ignore[arg-type]


def test_every_stage_halves_what_has_halvings_left() -> None:
    assert stage_strides([4, 8, 8]) == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert stage_strides([1, 2, 4]) == [(1, 2, 2), (1, 1, 2)]


def test_borders_put_the_odd_sample_in_front() -> None:
    assert border(4, (1, 2, 2)) == [1, 1, 1, 1, 2, 1]  # width, height, time
    assert border(3, (1, 1, 1)) == [1] * 6
    assert border(1, (1, 1, 1)) == [0] * 6


@torch.no_grad()
def test_transposed_convolutions_equal_the_usual_ones_away_from_the_border() -> None:
    torch.manual_seed(0)
    exact = SameUpConv(3, 5, 4, (2, 2, 2))
    usual = nn.ConvTranspose3d(3, 5, 4, 2, padding=1)
    usual.load_state_dict(exact.convt.state_dict())
    latents = torch.randn(2, 3, 4, 5, 6)
    ours, theirs = exact(latents), usual(latents)
    assert ours.shape == theirs.shape == (2, 5, 8, 10, 12)
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, theirs, atol=1e-2)


@torch.no_grad()
def test_transposed_convolutions_of_stride_1_are_convolutions_with_the_flipped_kernel() -> None:
    torch.manual_seed(0)
    transposed, plain = SameUpConv(2, 3, 4, (1, 1, 1)), SameConv(2, 3, 4)
    plain.conv.weight.copy_(transposed.convt.weight.transpose(0, 1).flip(2, 3, 4))
    plain.conv.bias.copy_(transposed.convt.bias)
    videos = torch.randn(1, 2, 5, 6, 7)
    torch.testing.assert_close(transposed(videos), plain(videos), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_constant_video_has_constant_latents(small: VideoAutoencoder) -> None:
    colour = torch.tensor([0.3, -0.2, 0.8]).view(1, 3, 1, 1, 1)
    moments = small.encode(colour.expand(1, 3, 16, 32, 32))
    torch.testing.assert_close(
        moments, moments[..., :1, :1, :1].expand_as(moments), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_videos_of_a_batch_do_not_see_each_other(small: VideoAutoencoder) -> None:
    videos = torch.rand(3, 3, 4, 16, 16) * 2 - 1
    together = small.decode(split(small.encode(videos))[0])
    for number in range(3):
        alone = small.decode(split(small.encode(videos[number : number + 1]))[0])
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-5)


def test_forward_decodes_a_draw_from_the_posterior(small: VideoAutoencoder) -> None:
    videos = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    torch.manual_seed(1)
    reconstruction, moments = small(videos)
    torch.manual_seed(1)
    noise = torch.randn(2, 4, 1, 2, 2)
    torch.testing.assert_close(moments, small.encode(videos))
    torch.testing.assert_close(reconstruction, small.decode(draw(moments, noise)))
    assert not torch.equal(reconstruction, small(videos)[0])


def test_group_norms_stay_exact_under_autocast(small: VideoAutoencoder) -> None:
    videos = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    kinds = set()
    for module in small.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda _m, _i, output: kinds.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        half, moments = small(videos)
    assert kinds == {torch.float32}
    torch.testing.assert_close(moments.float(), small.encode(videos), rtol=0.1, atol=0.05)
    assert torch.isfinite(half).all()


def test_divergence_from_a_standard_normal() -> None:
    standard = torch.zeros(2, 8, 4, 16, 16)
    assert kl_divergence(standard).tolist() == [0, 0]
    shifted = standard.clone()
    shifted[1, :4] = 1
    assert kl_divergence(shifted).tolist() == [0, 2048]
    torch.manual_seed(0)
    moments = torch.randn(1, 2, 1, 1, 1)
    mean, log_variance = split(moments)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    known = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum()
    torch.testing.assert_close(kl_divergence(moments)[0], known)


def test_log_variances_are_clamped() -> None:
    moments = torch.tensor([0.5, 100.0]).view(1, 2, 1, 1, 1)
    assert float(split(moments)[1]) == 20
    assert float(split(-moments)[1]) == -30
    assert float(draw(-moments, torch.ones(1, 1, 1, 1, 1))) == pytest.approx(-0.5, abs=1e-5)
