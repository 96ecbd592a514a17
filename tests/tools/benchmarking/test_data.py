"""The ways to load a clip that are compared load the same clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import ClipConfig, DataConfig
from datasets.cached import CachedClips
from datasets.clips import ClipDataset, choose_clip
from datasets.video_io import frame_table, write_video
from tools.benchmarking.data import (
    draw_from_whole,
    needed_frames,
    prepare_frames,
    write_random_cache,
)
from tools.benchmarking.networks import Model

CLIP = ClipConfig(frames=4, size=32)
FRAMES = 30


@pytest.fixture
def videos(tmp_path: Path) -> DataConfig:
    folder = tmp_path / "videos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8)
    write_video(folder / "noise.mp4", pixels, 25.0)
    return DataConfig(folder=str(folder), images_per_clip=0, flip=False, workers=0)


def test_decoding_all_and_decoding_what_is_used_give_the_same_clip(videos: DataConfig) -> None:
    dataset = ClipDataset(videos, CLIP)
    path = Path(videos.folder) / "noise.mp4"
    for seed in range(3):
        ours = dataset.draw(0, np.random.default_rng(seed))["videos"]
        whole = draw_from_whole(path, CLIP, np.random.default_rng(seed))
        assert ours.shape == (4, 3, 32, 32)
        assert torch.equal(ours, whole)


def test_prepared_frames_are_of_the_same_clip(videos: DataConfig, tmp_path: Path) -> None:
    target = tmp_path / "frames"
    prepare_frames(videos, target, CLIP.size)
    settings = DataConfig(folder=str(target), images_per_clip=0, flip=False, workers=0)
    prepared = ClipDataset(settings, CLIP).draw(0, np.random.default_rng(1))["videos"]
    exact = ClipDataset(videos, CLIP).draw(0, np.random.default_rng(1))["videos"]
    assert (prepared.float() - exact.float()).abs().mean() < 12  # of noise, after JPEG


def test_a_random_cache_is_one_that_training_reads(videos: DataConfig, tmp_path: Path) -> None:
    model = Model(frames=4, images=2, pixels=32, depth=2)
    folder = tmp_path / "cache"
    write_random_cache(folder, videos, model, CLIP)
    cached = DataConfig(
        folder=videos.folder, cache=str(folder), images_per_clip=2, flip=False, workers=0
    )
    item = CachedClips(cached, CLIP, list(model.cached_shapes)).draw(0, np.random.default_rng(0))
    shapes = {name: tuple(part.shape[1:]) for name, part in item.items() if "/" in name}
    assert shapes == {f"cached/{name}": shape for name, shape in model.cached_shapes.items()}
    assert all(len(item[name]) == 6 for name in shapes)


def test_needed_frames_reach_from_the_key_frame_to_the_end_of_the_clip(videos: DataConfig) -> None:
    path = Path(videos.folder) / "noise.mp4"
    table = frame_table(path)
    keys = [k for k in range(FRAMES) if table.is_key(int(table.stamps[k]))]
    expected = []
    for seed in (2, 3, 4):
        where = choose_clip(FRAMES, CLIP, False, np.random.default_rng(seed)).where
        expected.append(where[-1] + 1 - max(key for key in keys if key <= where[0]))
    assert needed_frames(path, CLIP, 3) == (pytest.approx(np.mean(expected)), len(keys))
