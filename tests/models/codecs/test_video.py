"""The codec of stage 2: files of stage 1 in every form, and decoding in windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from configs.shapes import VideoShape
from models.backbones.video_autoencoder import VideoAutoencoder, split
from models.codecs.video import (
    VideoCodec,
    Window,
    decode_windows,
    load_video_autoencoder,
    weights_sha256,
)

CLIP = VideoShape(16, 3, 32, 32)
CONFIG: dict[str, Any] = {
    "method_name": "lvdm_autoencoder",
    "clip": {"frames": 16, "size": 32},
    "method": {"width": 4, "factors": [4, 8, 8], "channels": 3, "groups": 4},
}


def network(seed: int = 0) -> VideoAutoencoder:
    torch.manual_seed(seed)
    return VideoAutoencoder(4, (4, 8, 8), 3, 4).eval()


def checkpoint(**changes: Any) -> dict[str, Any]:
    """What a run of stage 1 saves, as far as it is read: raw weights of seed 0, two averages."""
    return {
        "method_name": "lvdm_autoencoder",
        "config": CONFIG,
        "networks": {"autoencoder": network(0).state_dict(), "discriminator": {}},
        "ema": [{"autoencoder": network(seed).state_dict()} for seed in (1, 2)],
        **changes,
    }


def export(path: Path, metadata: dict[str, str] | None = None) -> Path:
    tensors = {f"autoencoder/{k}": v for k, v in network(1).state_dict().items()}
    known = {"method_name": "lvdm_autoencoder", "config": json.dumps(CONFIG)}
    save_file(tensors, path, known if metadata is None else metadata)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    older = checkpoint(ema=[{"autoencoder": network(9).state_dict()}])
    torch.save(older, folder / "checkpoints" / "step_00000900.pt")
    torch.save(checkpoint(), folder / "checkpoints" / "step_00001000.pt")
    return folder


@pytest.fixture
def codec() -> VideoCodec:
    built = network()
    return VideoCodec(built, CLIP, weights_sha256(built))


def clips(count: int = 2, frames: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, frames, 3, 32, 32, generator=generator) * 2 - 1


def test_the_newest_first_average_of_a_run_is_read(run: Path) -> None:
    codec = load_video_autoencoder(run)
    assert codec.shape == CLIP
    assert (codec.channels, codec.factors) == (3, (4, 8, 8))
    for name, value in network(1).state_dict().items():
        assert torch.equal(codec.network.state_dict()[name], value)
    assert not codec.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_the_same_weights_have_one_checksum_whatever_the_file(run: Path, tmp_path: Path) -> None:
    exported = export(tmp_path / "stage1.safetensors")
    newest = run / "checkpoints" / "step_00001000.pt"
    sums = {load_video_autoencoder(path).sha256 for path in (run, str(newest), exported)}
    assert len(sums) == 1
    assert sums == {weights_sha256(network(1))}
    assert len(sums.pop()) == 64


def test_averages_and_raw_weights_can_be_chosen(run: Path) -> None:
    assert load_video_autoencoder(run, 1).sha256 == weights_sha256(network(2))
    assert load_video_autoencoder(run, -1).sha256 == weights_sha256(network(0))
    for number in (2, -2):
        with pytest.raises(ValueError, match=f"no average number {number}"):
            load_video_autoencoder(run, number)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (("nothing", "train stage 1"), ("empty", "no checkpoint in the run folder")):
        with pytest.raises(FileNotFoundError, match=words) as error:
            load_video_autoencoder(tmp_path / path)
        assert "\n" not in str(error.value)


def incomplete() -> dict[str, Any]:
    saved = checkpoint()
    for part in saved["ema"]:
        del part["autoencoder"]["decoder.conv_out.conv.bias"]
    return saved


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (checkpoint(method_name="endora"), "is of the method 'endora'"),
        (checkpoint(ema=[{}]), "no complete video autoencoder"),
        (incomplete(), "decoder.conv_out.conv.bias"),
        (checkpoint(config={**CONFIG, "method": {"width": 4}}), "no complete video autoencoder"),
        (
            checkpoint(config={**CONFIG, "method": {**CONFIG["method"], "width": 8}}),
            "no complete video autoencoder",
        ),
        ({"epoch": 1, "state_dict": {}}, "no checkpoint of this project"),
        ([1], "no checkpoint of this project"),
    ],
)
def test_other_files_are_refused_in_one_line(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=words) as error:
        load_video_autoencoder(tmp_path / "file.pt")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "file.pt") in str(error.value)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("nothing of the kind")
        with pytest.raises(ValueError, match="damaged"):
            load_video_autoencoder(tmp_path / name)
    with pytest.raises(ValueError, match="not exported by this project"):
        load_video_autoencoder(export(tmp_path / "other.safetensors", {}))


def test_a_cut_or_changed_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    whole = max(run.glob("checkpoints/*.pt")).read_bytes()
    place = len(whole) // 2
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for content in (b"", whole[:100], whole[:20_000], changed):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"method.autoencoder: .*file.pt is damaged") as error:
            load_video_autoencoder(tmp_path / "file.pt")
        assert "\n" not in str(error.value)


def test_a_pickle_that_runs_code_is_not_opened(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"method_name": Harmful()}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="damaged"):
        load_video_autoencoder(tmp_path / "file.pt")
    assert not (tmp_path / "ran").exists()


def test_untrained_is_always_the_same() -> None:
    torch.manual_seed(5)
    first, state = load_video_autoencoder("untrained"), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # no random numbers are used up
    assert load_video_autoencoder("untrained").sha256 == first.sha256
    assert first.latents(VideoShape(8, 3, 64, 64)) == VideoShape(2, 4, 8, 8)


def test_latents_are_those_of_the_network_with_frames_first(codec: VideoCodec) -> None:
    videos = clips()
    mean, log_variance = codec.encode_moments(videos)
    expected = split(codec.network.encode(videos.transpose(1, 2)))
    for found, wanted in zip((mean, log_variance), expected, strict=True):
        assert found.shape == codec.latents(CLIP).batch(2) == (2, 4, 3, 4, 4)
        torch.testing.assert_close(found, wanted.transpose(1, 2))
    torch.manual_seed(0)
    drawn = codec.encode(videos)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    decoded = codec.decode(mean)
    wanted = codec.network.decode(expected[0]).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(decoded, wanted)
    assert decoded.shape == videos.shape


def test_it_stays_exact_under_autocast_and_records_nothing(codec: VideoCodec) -> None:
    videos = clips(1)
    plain = codec.encode_moments(videos)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.encode_moments(videos.requires_grad_())[0]
        decoded = codec.decode(inside)
    assert torch.equal(inside, plain)
    assert inside.dtype == decoded.dtype == torch.float32
    assert not inside.requires_grad
    assert not decoded.requires_grad
    assert not codec.train().training


def test_clips_go_through_few_at_a_time(codec: VideoCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = clips(3)
    together = codec.encode_moments(videos)[0]
    pixels = codec.decode(together)
    monkeypatch.setattr("models.codecs.video.PIXELS_AT_ONCE", 16 * 32 * 32)
    counts: list[int] = []
    for half in (codec.network.encoder, codec.network.decoder):
        half.register_forward_hook(lambda _m, _i, output: counts.append(len(output)))
    torch.testing.assert_close(codec.encode_moments(videos)[0], together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode(together), pixels, rtol=1e-4, atol=1e-4)
    assert counts == [1] * 6


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (VideoShape(16, 3, 64, 64), "trained on 32x32 frames, not on 64x64"),
        (VideoShape(18, 3, 32, 32), "18 frames"),
    ],
)
def test_videos_of_other_sizes_are_refused(
    codec: VideoCodec, video: VideoShape, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        codec.latents(video)


def test_longer_videos_have_longer_latents(codec: VideoCodec) -> None:
    assert codec.latents(VideoShape(64, 3, 32, 32)).frames == 16


# ---------------------------------------------------------------- windows


def test_windows_of_known_lengths() -> None:
    assert decode_windows(4, 4, 2) == [Window(0, 4, 0, 4)]
    assert decode_windows(3, 4, 2) == [Window(0, 3, 0, 3)]
    assert decode_windows(6, 4, 2) == [Window(0, 4, 0, 3), Window(2, 6, 3, 6)]
    # the last one is shifted back and shares more
    assert decode_windows(7, 4, 2)[1:] == [Window(2, 6, 3, 5), Window(3, 7, 5, 7)]
    # the earlier one keeps the odd frame of what is shared
    assert decode_windows(5, 4, 3) == [Window(0, 4, 0, 3), Window(1, 5, 3, 5)]
    assert decode_windows(6, 3, 0) == [Window(0, 3, 0, 3), Window(3, 6, 3, 6)]


@pytest.mark.parametrize("window", range(1, 7))
def test_windows_keep_every_frame_once_and_away_from_their_ends(window: int) -> None:
    for overlap in range(window):
        for length in range(1, 40):
            windows = decode_windows(length, window, overlap)
            kept = [frame for each in windows for frame in range(each.keep_from, each.keep_to)]
            assert kept == list(range(length))
            for each in windows:
                assert 0 <= each.start <= each.keep_from < each.keep_to <= each.stop <= length
                assert each.stop - each.start == min(window, length)
                if each.start:
                    assert each.keep_from - each.start >= (overlap + 1) // 2
                if each.stop < length:
                    assert each.stop - each.keep_to >= overlap // 2


@pytest.mark.parametrize(("window", "overlap"), [(4, 4), (4, -1), (0, 0)])
def test_windows_that_do_not_move_on_are_refused(window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        decode_windows(8, window, overlap)


def test_windows_are_decoded_each_for_itself_and_cut(codec: VideoCodec) -> None:
    latents = torch.randn(2, 7, 3, 4, 4)
    videos = codec.decode(latents)  # windows of 4, the length in training
    assert videos.shape == (2, 28, 3, 32, 32)

    def alone(start: int) -> torch.Tensor:
        return codec.decode(latents[:, start : start + 4])

    torch.testing.assert_close(videos[:, :12], alone(0)[:, :12])
    torch.testing.assert_close(videos[:, 12:20], alone(2)[:, 4:12])
    torch.testing.assert_close(videos[:, 20:], alone(3)[:, 8:])
    torch.testing.assert_close(
        codec.decode(latents, window=7), codec.decode(latents, window=9, overlap=1)
    )


def test_memory_of_a_decode_does_not_grow_with_the_length(codec: VideoCodec) -> None:
    longest: list[int] = []
    codec.network.decoder.register_forward_hook(
        lambda _m, _i, output: longest.append(output.shape[2])
    )
    codec.decode(torch.randn(1, 20, 3, 4, 4))
    assert set(longest) == {16}
