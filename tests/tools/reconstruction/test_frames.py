"""Which frames a scene is made from, and which clips are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.image_io import write_image
from datasets.video_io import write_video
from tools.reconstruction.frames import (
    Clip,
    check_pictures,
    chosen_frames,
    fitted_size,
    read_clip,
    resized,
    scenes_in,
)


def noise(frames: int = 6, height: int = 32, width: int = 40) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


def write_frames(folder: Path, pictures: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        write_image(folder / f"{index}.png", torch.from_numpy(picture).permute(2, 0, 1))


def test_frames_are_spread_from_the_first_to_the_last() -> None:
    assert chosen_frames(5, 0) == [0, 1, 2, 3, 4]
    assert chosen_frames(5, 9, start=2) == [2, 3, 4, 5, 6]
    assert chosen_frames(156, 16)[:2] == [0, 10]
    assert chosen_frames(156, 16)[-1] == 155


def test_a_video_and_a_folder_of_frames_are_one_scene_each(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(9), 12)
    clip = read_clip(scenes_in(tmp_path / "clip.mp4")[0], 5, 0, 0, 8)
    assert (clip.numbers, clip.length, clip.name) == ((0, 2, 4, 6, 8), 9, "clip")
    assert clip.fps == pytest.approx(6), "as long as the original"
    np.testing.assert_allclose(clip.times, [-1, -0.5, 0, 0.5, 1])
    pictures = noise(12)
    write_frames(tmp_path / "frames", pictures)
    (found,) = scenes_in(tmp_path / "frames")
    clip = read_clip(found, 0, 0, 0, 8)
    np.testing.assert_array_equal(clip.pictures, pictures)  # 2 before 10
    assert not clip.rate_known
    assert clip.fps == 8


def test_folders_of_pictures_win_over_what_lies_beside_them(tmp_path: Path) -> None:
    write_frames(tmp_path / "scene" / "images", noise())
    write_frames(tmp_path / "scene" / "masks", noise())
    (found,) = scenes_in(tmp_path / "scene")
    assert found.name == "scene"
    assert found.path.name == "images"


def test_a_folder_of_videos_is_many_scenes(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_video(tmp_path / f"{name}.mp4", noise(), 8)
    assert [each.name for each in scenes_in(tmp_path)] == ["a", "b"]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such video"):
        scenes_in(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="holds no video"):
        scenes_in(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match="not a video"):
        scenes_in(tmp_path / "notes.txt")


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(3), 8)
    with pytest.raises(ValueError, match=r"3 frames from 0 to 3 of 3; a scene needs 4"):
        read_clip(scenes_in(tmp_path / "clip.mp4")[0], 16, 0, 0, 8)


def test_clips_that_show_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"flat .*no texture, no scene"):
        check_pictures(np.full((5, 32, 32, 3), 128, np.uint8), "grey.mp4")
    with pytest.raises(ValueError, match="one frame, 5 times over"):
        check_pictures(np.repeat(noise(1), 5, axis=0), "still.mp4")
    with pytest.raises(ValueError, match="frames of 16x32 pixels"):
        check_pictures(noise(5, 32, 16), "small.mp4")
    check_pictures(noise(5), "good.mp4")


def test_sides_are_even_and_keep_their_ratio() -> None:
    assert fitted_size(512, 640, 96) == (76, 96)
    assert fitted_size(128, 128, 640) == (128, 128)
    assert fitted_size(55, 33, 0) == (56, 32)


def test_small_pictures_are_means_of_large_ones() -> None:
    large = np.zeros((1, 8, 8, 3), np.uint8)
    large[:, ::2] = 200
    assert np.abs(resized(large, 2, 2).astype(int) - 100).max() <= 25
    assert resized(large, 8, 8) is large


def test_times_of_a_clip_follow_its_frame_numbers() -> None:
    clip = Clip("clip", noise(3), (10, 20, 60), 90, 8, True)
    np.testing.assert_allclose(clip.times, [-1, -0.6, 1])
