"""The built-in data set of diagnosis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.labelled import open_video, read_labelled
from datasets.simulator import simulate_clip
from datasets.video_io import write_video
from tools.diagnosis.simulated import make_clips, make_noise, plan, write_list


def test_clips_are_those_of_their_seeds_and_made_once(tmp_path: Path) -> None:
    recipes = plan(tmp_path / "train", 3, 40, frames=2, size=16, interval=3)
    assert list(make_clips(recipes[:2], workers=1)) == recipes[:2]
    before = recipes[0].path.stat().st_mtime_ns
    assert list(make_clips(recipes, workers=1)) == recipes[2:]
    assert recipes[0].path.stat().st_mtime_ns == before
    video = open_video(recipes[1].path)
    assert (video.count(), video.frame_size()) == (2, (16, 16))
    assert video.fps() == pytest.approx(25 / 3, rel=1e-3)


def test_the_list_tells_what_the_organ_bears(tmp_path: Path) -> None:
    recipes = plan(tmp_path / "train", 6, 40, frames=1, size=16, interval=3)
    for recipe in recipes:
        recipe.path.parent.mkdir(exist_ok=True)
        recipe.path.touch()
    write_list(tmp_path / "train.csv", recipes)
    videos = read_labelled(tmp_path, tmp_path / "train.csv")
    assert [video.path for video in videos] == [recipe.path for recipe in recipes]
    assert [video.label for video in videos] == [0, 1, 0, 1, 0, 1]


def test_a_clip_shows_what_its_label_says(tmp_path: Path) -> None:
    recipes = plan(tmp_path, 2, 40, frames=1, size=32, interval=3)
    list(make_clips(recipes, workers=1))
    for recipe, label in zip(recipes, (0, 1), strict=True):
        truth = simulate_clip(recipe.seed, frames=1, size=32, lesion=bool(label))
        assert truth.lesion == label
        seen = open_video(recipe.path).read([0])[0].permute(1, 2, 0).numpy()
        assert np.abs(seen.astype(float) - truth.video[0]).mean() < 4  # of 255: the codec's part


def test_a_clip_shows_the_way_of_a_longer_recording() -> None:
    slow = simulate_clip(5, frames=7, size=16)
    fast = simulate_clip(5, frames=3, size=16, motion=3.0)
    assert np.allclose(fast.poses, slow.poses[::3])


def test_noise_has_the_same_colours_and_nothing_to_see(tmp_path: Path) -> None:
    clip = simulate_clip(5, frames=3, size=32).video
    write_video(tmp_path / "clip.mp4", clip, 8.0)
    (path,) = make_noise([tmp_path / "clip.mp4"], tmp_path / "noise", 8.0)
    made = path.stat().st_mtime_ns
    seen = open_video(tmp_path / "clip.mp4").read([0, 1, 2]).float()
    noise = open_video(path).read([0, 1, 2]).float()
    assert noise.shape == seen.shape
    assert (noise.mean((2, 3)) - seen.mean((2, 3))).abs().max() < 4  # of 255: the codec's part
    # Neighbours are alike in a picture and not in noise; frames stay as alike as they were.
    assert noise.diff(dim=3).abs().mean() > 3 * seen.diff(dim=3).abs().mean()
    assert noise.diff(dim=0).abs().mean() < 0.5 * noise.diff(dim=3).abs().mean()
    make_noise([tmp_path / "clip.mp4"], tmp_path / "noise", 8.0)
    assert path.stat().st_mtime_ns == made
