from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sample import writers
from sample.writers import (
    read_sample,
    remove_unfinished,
    sample_path,
    to_frames,
    write_contact_sheet,
    write_sample,
)


@pytest.fixture
def frames() -> writers.Frames:
    """A smooth moving picture, (6, 32, 48, 3)."""
    row, column = np.mgrid[0:32, 0:48]
    return np.stack(
        [np.stack([4 * row + 10 * k, 4 * column, 3 * (row + column)], axis=-1) for k in range(6)]
    ).astype(np.uint8)


@pytest.mark.parametrize("sample_format", ["png", "npz"])
def test_lossless_formats_give_back_every_pixel(
    tmp_path: Path, frames: writers.Frames, sample_format: writers.SampleFormat
) -> None:
    path = sample_path(tmp_path, "000000", sample_format)
    write_sample(path, frames, sample_format, fps=8)
    np.testing.assert_array_equal(read_sample(path, sample_format), frames)


def test_png_frames_are_numbered_from_zero_and_npz_holds_one_array(
    tmp_path: Path, frames: writers.Frames
) -> None:
    write_sample(tmp_path / "000003", frames, "png", fps=8)
    write_sample(tmp_path / "000003.npz", frames, "npz", fps=8)
    names = sorted(file.name for file in (tmp_path / "000003").iterdir())
    assert names == [f"{k:06d}.png" for k in range(6)]
    with np.load(tmp_path / "000003.npz") as arrays:
        assert arrays.files == ["video"]
        assert arrays["video"].dtype == np.uint8


def test_mp4_is_close_and_has_every_frame(tmp_path: Path, frames: writers.Frames) -> None:
    path = sample_path(tmp_path, "000000", "mp4")
    write_sample(path, frames, "mp4", fps=8)
    back = read_sample(path, "mp4")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames.astype(int)).mean() < 3


def test_gif_shows_every_frame_for_its_time(tmp_path: Path, frames: writers.Frames) -> None:
    path = sample_path(tmp_path, "000000", "gif")
    write_sample(path, frames, "gif", fps=10)
    with Image.open(path) as image:
        assert (image.info["duration"], image.info["loop"]) == (100, 0)
    assert read_sample(path, "gif").shape == frames.shape


def test_pixels_are_rounded_and_clamped() -> None:
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_frames(video)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_bytes_survive_the_way_to_pixel_values_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    back = to_frames(levels.float() / 127.5 - 1)
    assert (torch.from_numpy(back).permute(0, 3, 1, 2) == levels).all()


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, frames: writers.Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "000000.npz"
    write_sample(path, frames, "npz", fps=8)
    before = path.read_bytes()

    def fail(unfinished: Path, frames: writers.Frames, fps: float) -> None:
        unfinished.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers._WRITERS, "npz", fail)
    with pytest.raises(OSError, match=r"000000\.npz.*free some space"):
        write_sample(path, frames, "npz", fps=8)
    assert [file.name for file in tmp_path.iterdir()] == ["000000.npz"]
    assert path.read_bytes() == before


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".123-000000.npz").write_bytes(b"half")
    (tmp_path / ".123-000001").mkdir()
    (tmp_path / ".123-000001" / "000000.png").write_bytes(b"half")
    (tmp_path / ".note").write_text("mine")
    remove_unfinished(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".note"]


def test_the_contact_sheet_has_a_row_for_each_video_and_both_ends_of_it(tmp_path: Path) -> None:
    video = np.zeros((20, 10, 12, 3), dtype=np.uint8)
    video[0], video[-1] = 50, 200
    write_contact_sheet(tmp_path / "sheet.png", [video] * 3, columns=5, margin=4)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * (10 + 4) + 4, 5 * (12 + 4) + 4, 3)
    assert len(np.unique(sheet[:4])) == 1
    assert (sheet[4:14, 4:16] == 50).all()
    assert (sheet[4:14, -16:-4] == 200).all()


def test_a_contact_sheet_is_at_most_eight_by_eight(tmp_path: Path) -> None:
    video = np.zeros((16, 10, 10, 3), dtype=np.uint8)
    write_contact_sheet(tmp_path / "sheet.png", [video] * 20, margin=0)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (80, 80)


def test_a_contact_sheet_needs_videos_of_one_size(tmp_path: Path) -> None:
    small, large = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 9, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="one size"):
        write_contact_sheet(tmp_path / "sheet.png", [small, large])
    with pytest.raises(ValueError, match="at least one video"):
        write_contact_sheet(tmp_path / "sheet.png", [])
