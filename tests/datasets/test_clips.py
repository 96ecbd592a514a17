"""Items of the data set: the right frames, and clear errors for bad data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import ClipConfig, DataConfig
from datasets.clips import ClipDataset, window
from datasets.frames import ExtractionSettings, extract_all, find_videos
from datasets.image_io import write_image
from datasets.transforms import to_float
from datasets.video_io import write_video

CLIP = ClipConfig(frames=16, size=32, frame_interval=3)


def config(folder: Path, **changes: object) -> DataConfig:
    return DataConfig(folder=str(folder), images_per_clip=2, **changes)  # type: ignore[arg-type]


def numbered_frames(folder: Path, count: int) -> None:
    """Frames whose brightness is their number, brighter on the left half by 100."""
    folder.mkdir(parents=True)
    for k in range(count):
        frame = torch.full((3, 32, 32), k, dtype=torch.uint8)
        frame[..., :16] += 100
        write_image(folder / f"{k:06d}.png", frame)


@pytest.mark.parametrize("available", [48, 49, 100, 47, 40, 32, 31, 17, 16])
def test_a_window_is_evenly_spread_with_both_ends(available: int) -> None:
    random = np.random.default_rng(0)
    stride = min(3, available // 16)
    starts = set()
    for _ in range(200):
        indices = window(available, 16, 3, random)
        steps = np.diff(indices)
        assert len(indices) == 16
        assert indices[-1] - indices[0] == 16 * stride - 1
        assert stride <= steps.min() <= steps.max() <= stride + 1
        assert 0 <= indices[0] <= indices[-1] < available
        starts.add(indices[0])
    assert min(starts) == 0
    assert max(starts) == available - 16 * stride


def test_an_item_holds_frames_of_one_video_in_order(tmp_path: Path) -> None:
    numbered_frames(tmp_path / "a", 60)
    data = ClipDataset(config(tmp_path), CLIP)
    flips = []
    for seed in range(20):
        item = data.draw(0, np.random.default_rng(seed))
        flipped = bool(item["videos"][0, 0, 0, 0] < item["videos"][0, 0, 0, -1])
        assert torch.equal(item["videos"].amax((1, 2, 3)) - 100, item["videos"].amin((1, 2, 3)))
        numbers = item["videos"].amin((1, 2, 3)).int()
        assert int(numbers[-1] - numbers[0]) == 47
        first_column = item["videos"][:, 0, 0, 0].int() - numbers
        assert set(first_column.tolist()) == ({0} if flipped else {100})
        flips.append(flipped)
    assert 0 < sum(flips) < 20


def test_extra_images_are_drawn_from_all_frames_with_their_own_flips(tmp_path: Path) -> None:
    numbered_frames(tmp_path / "a", 30)
    numbered_frames(tmp_path / "b", 10)  # too short for a clip, yet full of images
    data = ClipDataset(config(tmp_path), CLIP)
    assert (len(data), data.skipped, data.images.frames) == (1, 1, 40)
    images = data.images.draw(600, np.random.default_rng(0))
    numbers = images.amin((1, 2, 3)).int()
    assert numbers.bincount().tolist() == pytest.approx([30] * 10 + [15] * 20, abs=17)
    flipped = images[:, 0, 0, 0] < images[:, 0, 0, -1]
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_without_flips_or_images(tmp_path: Path) -> None:
    numbered_frames(tmp_path / "a", 30)
    settings = DataConfig(folder=str(tmp_path), images_per_clip=0, flip=False)
    data = ClipDataset(settings, CLIP)
    for seed in range(8):
        item = data.draw(0, np.random.default_rng(seed))
        assert list(item) == ["videos"]
        assert item["videos"][0, 0, 0, 0] > item["videos"][0, 0, 0, -1]


def test_an_item_looked_at_is_float_and_always_the_same(folder_of_videos: Path) -> None:
    data = ClipDataset(config(folder_of_videos), CLIP)
    item, again = data[1], data[1]
    assert item["videos"].shape == (16, 3, 32, 32)
    assert item["images"].shape == (2, 3, 32, 32)
    assert item["videos"].dtype == torch.float32
    assert -1 <= item["videos"].min() < item["videos"].max() <= 1
    assert torch.equal(item["videos"], again["videos"])
    with pytest.raises(IndexError):
        data[2]


def test_short_videos_are_left_out_and_counted(folder_of_videos: Path) -> None:
    data = ClipDataset(config(folder_of_videos), CLIP)
    assert [source.name for source in data.sources] == ["00001", "00002"]
    assert (data.counts, data.skipped) == ([40, 20], 1)


def test_video_files_and_their_frames_give_the_same_items(
    folder_of_videos: Path, tmp_path: Path
) -> None:
    settings = ExtractionSettings(target_size=32, image_format="png", min_frames=1)
    target = tmp_path / "frames"
    list(extract_all(find_videos(folder_of_videos, target), target, settings))
    videos = ClipDataset(config(folder_of_videos), CLIP)
    frames = ClipDataset(config(target), CLIP)
    for seed in range(3):
        one = videos.draw(1, np.random.default_rng(seed))
        other = frames.draw(1, np.random.default_rng(seed))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_labels_are_found_by_name(folder_of_videos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("name,label\n00002.mp4,3\n00001,0\n")
    data = ClipDataset(config(folder_of_videos, labels=str(labels)), CLIP)
    items = [data.draw(k, np.random.default_rng(0)) for k in range(2)]
    assert [int(item["labels"]) for item in items] == [0, 3]
    assert items[0]["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\n00001,0\n", "no label for 1 videos, such as 00002"),
        ("name,label\n00001,polyp\n", "line 2: a label is a whole number from 0, got 'polyp'"),
        ("name,label\n00001,-1\n", "got '-1'"),
        ("video,class\n00001,0\n", "expected the columns name,label"),
    ],
)
def test_bad_labels_are_refused(
    folder_of_videos: Path, tmp_path: Path, text: str, message: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(ValueError, match=message):
        ClipDataset(config(folder_of_videos, labels=str(labels)), CLIP)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.folder: .*nowhere: no such folder"):
        ClipDataset(config(tmp_path / "nowhere"), CLIP)
    with pytest.raises(ValueError, match="no video files and no folders of frames"):
        ClipDataset(config(tmp_path), CLIP)
    numbered_frames(tmp_path / "a", 5)
    with pytest.raises(ValueError, match="none of its 1 videos has the 16 frames"):
        ClipDataset(config(tmp_path), CLIP)
    with pytest.raises(ValueError, match=r"no video files in it \(data\.layout: videos\)"):
        ClipDataset(config(tmp_path, layout="videos"), CLIP)


def test_a_broken_video_is_an_error_that_names_it(folder_of_videos: Path) -> None:
    (folder_of_videos / "00003.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00003\.mp4"):
        ClipDataset(config(folder_of_videos), CLIP)


def test_a_wide_video_is_cut_to_its_centre(tmp_path: Path) -> None:
    frames = np.zeros((20, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 200
    write_video(tmp_path / "a.mp4", frames, fps=8)
    item = ClipDataset(config(tmp_path), CLIP).draw(0, np.random.default_rng(0))
    assert (to_float(item["videos"])[..., 4:-4] > 0.4).all()
