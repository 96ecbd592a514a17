"""Clips from a cache: what online clips hold, or a refusal that says what differs."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import ClipConfig, DataConfig
from datasets.cache_index import (
    NAME,
    CachedSource,
    CacheIndex,
    Part,
    index_text,
    read_index,
    shard_name,
)
from datasets.cache_shards import shard_content, shard_problem
from datasets.cached import CachedClips
from datasets.clips import ClipDataset, open_sources
from datasets.fingerprints import fingerprint, is_unchanged, source_files
from datasets.image_io import write_image
from datasets.sampling import endless_batches
from datasets.transforms import flip, to_float

SIZE = 16
CLIP = ClipConfig(frames=4, size=SIZE, frame_interval=2)
COUNTS = [12, 3, 9, 20]  # frames of the videos; the second is shorter than a clip

Settings = Callable[..., DataConfig]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Four folders of noisy frames."""
    folder = tmp_path / "videos"
    generator = torch.Generator().manual_seed(0)
    for video, count in enumerate(COUNTS):
        (folder / str(video)).mkdir(parents=True)
        for k in range(count):
            pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator)
            write_image(folder / str(video) / f"{k:03d}.png", pixels.to(torch.uint8))
    return folder


@pytest.fixture
def settings(videos: Path, tmp_path: Path) -> Settings:
    """Settings of the data, with the cache beside the videos."""

    def make(**changes: object) -> DataConfig:
        values = {"cache": str(tmp_path / "cache"), "images_per_clip": 3, "workers": 0} | changes
        return DataConfig(folder=str(videos), **values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def cache(settings: Settings, tmp_path: Path) -> Path:
    """A cache of the pixels themselves, in shards of 7 frames, so that they can be compared."""
    folder = tmp_path / "cache"
    folder.mkdir()
    sources = open_sources(settings())
    index = CacheIndex(
        method_name="pixels",
        identity={},
        networks={},
        files={},
        size=SIZE,
        flips=True,
        parts={"pixels": Part((3, SIZE, SIZE), "float32"), "mean": Part((3,), "bfloat16")},
        sources=[CachedSource(s.name, s.count(), fingerprint(source_files(s))) for s in sources],
        shard_frames=7,
        command="python -m tools.cache again",
    )
    sizes = []
    for shard in range(index.shards):
        pieces = [sources[n].read(list(range(a, b))) for n, a, b in index.segments(shard)]
        frames = torch.cat(pieces)
        pixels = to_float(torch.stack([frames, flip(frames)], dim=1))
        parts = {"pixels": pixels, "mean": pixels.mean((-1, -2)).bfloat16()}
        path = folder / shard_name(shard)
        path.write_bytes(shard_content(parts, index.shard_key(shard)))
        sizes.append(path.stat().st_size)
    write(folder, dataclasses.replace(index, shard_bytes=sizes))
    return folder


def write(folder: Path, index: CacheIndex) -> None:
    (folder / NAME).write_text(index_text(index))


def refusal(data: DataConfig, clip: ClipConfig = CLIP, parts: tuple[str, ...] = ("pixels",)) -> str:
    """The one line that a cache is refused with."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        CachedClips(data, clip, parts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"flip": False}, {"images_per_clip": 0}])
@pytest.mark.parametrize("clip", [CLIP, ClipConfig(frames=3, size=SIZE, frame_interval=5)])
def test_items_are_those_of_the_videos(
    settings: Settings, cache: Path, changes: dict[str, object], clip: ClipConfig
) -> None:
    """Also for another clip than the cache was thought for."""
    online = ClipDataset(settings(cache=None, **changes), clip)
    cached = CachedClips(settings(**changes), clip, ["pixels", "mean"])
    assert (len(cached), cached.counts, cached.skipped) == (
        len(online),
        online.counts,
        online.skipped,
    )
    for number in range(24):
        expected = online.draw(number % len(online), np.random.default_rng(number))
        item = cached.draw(number % len(online), np.random.default_rng(number))
        frames = torch.cat([expected[key] for key in ("videos", "images") if key in expected])
        assert torch.equal(item["cached/pixels"], to_float(frames))
        means = to_float(frames).mean((-1, -2)).bfloat16()
        assert torch.equal(item["cached/mean"], means)
        assert item["videos"].shape == (clip.frames, 3, 0, 0)


def take(data: DataConfig, count: int, **changes: int) -> list[dict[str, Tensor]]:
    choices = {"batch_size": 4, "seed": 7, "rank": 0, "world_size": 1, "first_step": 0} | changes
    source = endless_batches(data, CLIP, **choices, cached_parts=["pixels"])  # type: ignore[arg-type]
    taken = [next(source) for _ in range(count)]
    source.close()
    return taken


def test_batches_keep_their_order_whoever_loads_them(settings: Settings, cache: Path) -> None:
    online = [
        torch.cat([batch["videos"], batch["images"]], dim=1)
        for batch in take(settings(cache=None), 4)
    ]

    def same(batches: list[dict[str, Tensor]], expected: list[Tensor]) -> bool:
        pairs = zip(batches, expected, strict=True)
        return all(torch.equal(batch["cached/pixels"], pixels) for batch, pixels in pairs)

    assert same(take(settings(), 4), online)
    assert same(take(settings(workers=2), 4), online)
    assert same(take(settings(), 2, first_step=2), online[2:])
    halves = [online[0][:2], online[0][2:]]
    for rank in range(2):
        assert same(take(settings(), 1, batch_size=2, rank=rank, world_size=2), [halves[rank]])


def test_labels_go_with_their_videos(settings: Settings, cache: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("name,label\n0,4\n2,5\n3,6\n")
    data = CachedClips(settings(labels=str(labels)), CLIP, ["pixels"])
    items = [data.draw(k, np.random.default_rng(0)) for k in range(3)]
    assert [int(item["labels"]) for item in items] == [4, 5, 6]


def test_the_videos_need_not_be_there(
    settings: Settings, cache: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = take(settings(), 2)
    shutil.rmtree(videos)
    for one, other in zip(take(settings(), 2), expected, strict=True):
        assert torch.equal(one["cached/pixels"], other["cached/pixels"])
    assert "not compared" in caplog.text


def test_a_copied_or_touched_video_is_still_the_same(
    settings: Settings, cache: Path, videos: Path
) -> None:
    copy = videos.with_name("copy")
    shutil.copytree(videos, copy)
    shutil.rmtree(videos)
    copy.rename(videos)
    os.utime(videos / "0" / "000.png", (1, 1))
    CachedClips(settings(), CLIP, ["pixels"])


def test_changed_added_and_removed_videos_are_named(
    settings: Settings, cache: Path, videos: Path
) -> None:
    image = videos / "2" / "004.png"
    status = image.stat()
    write_image(image, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    content = image.read_bytes()
    # The same length, and the old time of modification: the time of status tells.
    image.write_bytes((content + bytes(status.st_size))[: status.st_size])
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "1 changed (2)" in refusal(settings())
    shutil.copytree(videos / "3", videos / "5")
    shutil.rmtree(videos / "0")
    text = refusal(settings())
    assert "1 changed (2), 1 added (5), 1 removed (0)" in text
    assert text.endswith("(what fits stays): python -m tools.cache again")


def test_a_frame_more_or_less_is_a_change(settings: Settings, cache: Path, videos: Path) -> None:
    (videos / "3" / "019.png").unlink()
    assert "1 changed (3)" in refusal(settings())


def test_what_the_settings_need_and_the_cache_lacks_is_named(
    settings: Settings, cache: Path
) -> None:
    index = read_index(cache)
    larger = ClipConfig(frames=4, size=32, frame_interval=2)
    assert "frames of 16 pixels, clip.size is 32; make one" in refusal(settings(), larger)
    assert "it has no prior.0" in refusal(settings(), parts=("pixels", "prior.0"))
    assert "the longest has 20" in refusal(settings(), ClipConfig(frames=21, size=SIZE))
    write(cache, dataclasses.replace(index, flips=False))
    assert "no mirrored frames, data.flip is true" in refusal(settings())
    write(cache, dataclasses.replace(index, shard_bytes=[]))
    assert refusal(settings()).endswith("not finished; go on with: python -m tools.cache again")


def test_a_folder_that_is_no_cache_is_refused(settings: Settings, cache: Path) -> None:
    text = (cache / NAME).read_text()
    (cache / NAME).write_text(text.replace('"format": 1', '"format": 99'))
    assert "its format is 99, this version reads 1" in refusal(settings())
    for broken in (text[:200], "[]", '{"format": 1}', "{}"):
        (cache / NAME).write_text(broken)
        assert "not readable as the index of a cache" in refusal(settings())
    (cache / NAME).unlink()
    assert "make it: python -m tools.cache --config FILE" in refusal(settings())


def test_missing_and_cut_shards_are_noticed_at_the_start(settings: Settings, cache: Path) -> None:
    path = cache / shard_name(2)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert f"damaged: {len(content) - 100} of {len(content)} bytes" in refusal(settings())
    path.unlink()
    assert f"{path}: missing; make it anew (sound shards stay): python" in refusal(settings())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_byte_is_noticed_when_its_frame_is_read(
    settings: Settings, cache: Path, workers: int
) -> None:
    for path in cache.glob("shard_*"):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1  # the last frame's pixels
        path.write_bytes(content)
        index, shard = read_index(cache), int(path.stem.removeprefix("shard_"))
        assert shard_problem(path, index, shard) == "damaged (pixels)"
    with pytest.raises(ValueError, match=r"shard_0000\d.*: damaged: wrong checksum") as caught:
        take(settings(workers=workers), 20)
    assert "\n" not in str(caught.value)


def test_a_shard_of_another_cache_is_noticed(settings: Settings, cache: Path) -> None:
    shutil.copy(cache / shard_name(0), cache / shard_name(1))
    with pytest.raises(ValueError, match="of other videos or settings"):
        take(settings(), 20)


def test_a_video_more_leaves_the_keys_of_earlier_shards(cache: Path) -> None:
    index = read_index(cache)
    longer = dataclasses.replace(index, sources=[*index.sources, index.sources[0]])
    keys = [[each.shard_key(k) for k in range(index.shards)] for each in (index, longer)]
    assert keys[0][:-1] == keys[1][:-1]
    assert keys[0][-1] != keys[1][-1]  # it was not full
    other = dataclasses.replace(index, networks={"codec": "other"})
    assert not {other.shard_key(k) for k in range(index.shards)} & set(keys[0])


def test_segments_cover_every_frame_once(cache: Path) -> None:
    index = read_index(cache)
    held = [
        (number, frame)
        for shard in range(index.shards)
        for number, first, last in index.segments(shard)
        for frame in range(first, last)
    ]
    assert held == [(number, k) for number, count in enumerate(COUNTS) for k in range(count)]


def test_a_fingerprint_depends_on_content_and_order(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"12")
    other.write_bytes(b"3")
    known = fingerprint([one, other])
    assert known.bytes == 3
    assert not is_unchanged([other, one], known)
    one.write_bytes(b"1")
    other.write_bytes(b"23")  # the same bytes in a row, divided otherwise
    assert not is_unchanged([one, other], known)
