"""Frames of video files: the right ones, upright, from either decoder, or a clear error."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import video_io
from datasets.frame_table import holds_idr
from datasets.video_io import frame_count, frame_table, iterate_frames, read_frames, write_video

needs_decord = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not installed"
)
VARIABLE = np.cumsum([0, *np.random.default_rng(0).integers(15, 120, 39)]).tolist()
OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:min-keyint=12"}
PYRAMID = {"x264-params": "bframes=7:b-pyramid=normal:b-adapt=0"}
REFRESHED = {"x264-params": "intra-refresh=1:keyint=12"}
KINDS = {
    "mp4": {"name": "a.mp4"},
    "mkv": {"name": "a.mkv"},
    "mov": {"name": "a.mov"},
    "variable rate": {"name": "a.mp4", "stamps": VARIABLE},
    "variable rate, mkv": {"name": "a.mkv", "stamps": VARIABLE},
    "open groups": {"name": "a.mp4", "options": OPEN_GROUPS},
    "pyramid": {"name": "a.mp4", "options": PYRAMID},
    "intra refresh": {"name": "a.mp4", "options": REFRESHED},
    "h264 in avi": {"name": "a.avi"},
    "mpeg4 in avi": {"name": "a.avi", "codec": "mpeg4"},
    "mpg": {"name": "a.mpg", "codec": "mpeg2video"},
    "gif": {"name": "a.gif", "codec": "gif"},
    "rotated": {"name": "a.mp4", "rotation": 90},
}


def all_frames(path: Path) -> torch.Tensor:
    return torch.stack(list(iterate_frames(path)))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_read_out_of_order_are_those_of_a_full_decode(make_video, kind: str) -> None:
    path = make_video(**KINDS[kind])
    expected = all_frames(path)
    assert len(expected) == frame_count(path) == 40
    for indices in ([39], [0], [25, 3, 25, 38], [11, 12, 13, 23, 24], list(range(7, 31, 3))):
        for backend in ("pyav", "auto", "auto"):
            assert torch.equal(read_frames(path, indices, backend), expected[indices]), indices


@needs_decord
@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov", "variable rate", "variable rate, mkv"])
def test_decord_gives_the_same_frames(make_video, kind: str) -> None:
    path = make_video(**KINDS[kind])
    for indices in ([39], [25, 3, 25, 38], list(range(7, 31, 3))):
        assert torch.equal(read_frames(path, indices, "decord"), read_frames(path, indices, "pyav"))


@needs_decord
@pytest.mark.parametrize("kind", ["open groups", "intra refresh", "h264 in avi", "rotated", "gif"])
def test_decord_is_kept_from_files_that_it_reads_wrongly(make_video, kind: str) -> None:
    with pytest.raises(ValueError, match="decord"):
        read_frames(make_video(**KINDS[kind]), [0], "decord")


@needs_decord
def test_decord_gives_the_same_frames_of_real_clips(shared: Path) -> None:
    for name in ("colonoscopy/colonoscopic_05.mp4", "laparoscopy/cholec80_v01_028.mp4"):
        path = shared / "data/clips" / name
        indices = [0, 3, frame_count(path) // 2, frame_count(path) - 1]
        expected = read_frames(path, indices, "pyav")
        assert torch.equal(read_frames(path, indices, "decord"), expected)
        assert torch.equal(expected, all_frames(path)[indices])


@needs_decord
def test_decord_reads_what_is_known_to_be_sound(
    make_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, used = make_video(), []
    original = video_io._decode_with_decord
    monkeypatch.setattr(
        video_io, "_decode_with_decord", lambda *given: used.append(given[2]) or original(*given)
    )
    for indices in ([3, 20], [3, 20], [2], [4], [2, 4], [39]):
        read_frames(path, indices)
    assert used == [[3, 20], [2, 4]]


def test_flipped_bits_are_noticed(shared: Path, tmp_path: Path) -> None:
    """decord shows smeared pictures here, and says nothing."""
    content = bytearray((shared / "data/clips/laparoscopy/cholec80_v01_028.mp4").read_bytes())
    content[len(content) // 2] ^= 0x5A
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    refused = [index for index in range(frame_count(path)) if is_refused(path, index)]
    assert refused
    assert 0 not in refused
    assert all(is_refused(path, index) for index in refused)


def test_pictures_that_nothing_builds_on_are_left_out_unless_wanted(
    make_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(count=60, **{**KINDS["pyramid"], "group": 60})
    expected, wanted = all_frames(path), [11, 31, 51]
    decoded = decoded_stamps(monkeypatch)
    assert torch.equal(read_frames(path, wanted, "pyav"), expected[wanted])
    assert len(decoded) < 0.7 * 51


def decoded_stamps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that fills with the stamps of the frames decoded from now on."""
    decoded: list[int] = []
    original = video_io._intact_frames

    def counting(*arguments, **named):
        for frame in original(*arguments, **named):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_io, "_intact_frames", counting)
    return decoded


def test_only_what_is_needed_is_decoded(make_video, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(count=240)
    frame_table(path)
    decoded = decoded_stamps(monkeypatch)
    read_frames(path, list(range(150, 166)), "pyav")
    assert len(decoded) <= 16 + 12 + 4  # the frames, one group before them, the decoder's delay


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1)), (270, (0, -1))]
)
def test_rotation_is_applied_anticlockwise(make_video, rotation: int, corner) -> None:
    path = make_video(rotation=rotation)
    frame = read_frames(path, [5])[0]
    assert tuple(frame.shape[1:]) == frame_table(path).size
    assert frame.shape[1:] == ((96, 64) if rotation % 180 else (64, 96))
    corners = {(y, x): int(frame[:, 5 if y == 0 else -6, 5 if x == 0 else -6].min())
               for y in (0, -1) for x in (0, -1)}  # fmt: skip
    assert max(corners, key=corners.__getitem__) == corner


def test_a_forced_rate_shows_what_a_player_shows(make_video) -> None:
    path = make_video(stamps=VARIABLE)
    original = all_frames(path)
    times = np.array(VARIABLE) / 1000
    shown = list(iterate_frames(path, fps=10))
    expected = [int(np.searchsorted(times, k / 10 + 1e-3, side="right")) - 1 for k in range(25)]
    assert len(shown) == pytest.approx(times[-1] * 10, abs=2)
    assert all(torch.equal(shown[k], original[index]) for k, index in enumerate(expected))


@pytest.mark.parametrize(("fps", "count"), [(25, 40), (12.5, 20), (50, 80), (5, 8)])
def test_a_forced_rate_keeps_the_duration(make_video, fps: float, count: int) -> None:
    path = make_video()
    frames = list(iterate_frames(path, fps=fps))
    assert len(frames) == count
    if fps == 25:
        assert torch.equal(torch.stack(frames), all_frames(path))


def test_the_mean_rate_comes_from_the_stamps(make_video) -> None:
    table = frame_table(make_video(stamps=VARIABLE))
    assert table.fps == pytest.approx(39 / (VARIABLE[-1] / 1000), rel=1e-3)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    ramp = np.linspace(30, 220, 64).astype(np.uint8)
    frames = np.stack([np.broadcast_to(np.roll(ramp, k)[None, :, None], (48, 64, 3))
                       for k in range(5)])  # fmt: skip
    write_video(tmp_path / "a.mp4", frames, fps=8)
    back = read_frames(tmp_path / "a.mp4", range(5)).permute(0, 2, 3, 1).numpy()
    assert np.abs(back.astype(int) - frames).mean() < 2
    assert frame_table(tmp_path / "a.mp4").fps == pytest.approx(8)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_colours_survive_writing(tmp_path: Path) -> None:
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 150, 110)], np.uint8)
    frames = np.repeat(np.repeat(colours[None, None], 32, axis=1), 16, axis=2)  # (1, 32, 64, 3)
    write_video(tmp_path / "a.mp4", frames, fps=8)
    back = read_frames(tmp_path / "a.mp4", [0])[0, :, 16, 8::16].T.numpy()
    assert np.abs(back.astype(int) - colours).max() <= 4


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides, got 33x64"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 33, 64, 3), np.uint8), fps=8)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 32, 64, 3), np.float32), fps=8)
    assert not list(tmp_path.iterdir())


def damaged(path: Path, how: str) -> Path:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif how == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("how", ["cut", "noise", "empty"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_broken_file_is_named(make_video, how: str, suffix: str) -> None:
    if (how, suffix) == ("cut", "mkv"):
        pytest.skip("a cut Matroska file is a shorter, whole file")
    path = damaged(make_video(f"a.{suffix}"), how)
    with pytest.raises(ValueError, match=path.name):
        frame_count(path)


def test_overwritten_pictures_are_noticed(make_video) -> None:
    path = make_video(count=120, group=20)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        all_frames(path)
    # With decord, where it is installed, as without.
    refused = [index for index in range(0, 120, 4) if is_refused(path, index)]
    assert 0 < len(refused) < 12  # only the damaged group of 20 frames, or two


def is_refused(path: Path, index: int) -> bool:
    try:
        read_frames(path, [index])
    except ValueError as error:
        return path.name in str(error)
    return False


def test_a_video_without_frames_is_named(tmp_path: Path, make_video) -> None:
    path = make_video(count=0)
    with pytest.raises(ValueError, match=r"clip\.mp4"):
        frame_count(path)


def test_indices_beyond_the_end_are_refused(make_video) -> None:
    with pytest.raises(IndexError, match="frame 40 asked for, it has 40"):
        read_frames(make_video(), [3, 40])
    with pytest.raises(FileNotFoundError, match="no such video file"):
        frame_count("nowhere.mp4")


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for count in (3, 5):
        write_video(path, np.zeros((count, 32, 32, 3), np.uint8), fps=8)
        assert frame_count(path) == count


def test_full_restarts_are_told_from_key_frames() -> None:
    def unit(kind: int) -> bytes:
        return b"\0\0\0\2" + bytes([kind, 0])

    assert holds_idr(unit(6) + unit(5), 4)
    assert not holds_idr(unit(6) + unit(1), 4)
