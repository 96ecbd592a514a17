"""Loading a clip: 16 frames at stride 3 out of a long video, four ways."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import ClipConfig, DataConfig, RunConfig
from datasets.cache_index import shard_name
from datasets.cached import CachedClips
from datasets.clips import ClipDataset, choose_clip, open_sources
from datasets.frames import ExtractionSettings, extract
from datasets.simulator import simulate_clip
from datasets.transforms import resize_centre_crop
from datasets.video_io import frame_table, iterate_frames, write_video
from tools.benchmarking.networks import BenchmarkedEndora, Model
from tools.benchmarking.tables import Section, Setup, compared
from tools.benchmarking.timing import alternate, time_of
from tools.cache import write_index
from tools.caching.encode import Encoder
from tools.caching.plan import plan_cache

WIDTH, HEIGHT, LENGTH = 640, 512, 300
RENDERED, FRAME_RATE = 10, 25.0  # frames, between which the rest is blended
SENSOR_NOISE = 3.0  # grey levels; without it a file is much smaller than footage is
QUALITY = 16  # crf of H.264 with which that noise is kept: about 3 Mbit/s
WHOLE, OWN = "whole video decoded", "frames that are used decoded"
CPU = torch.device("cpu")

Draw = Callable[[np.random.Generator], object]


def data_section(setup: Setup) -> Section:
    """One item's frames: decode the whole video, only what is used, prepared frames, a cache."""
    folder = setup.folder / "data"
    length, scale, rendered = (60, 4, 2) if setup.quick else (LENGTH, 1, RENDERED)
    clip = ClipConfig(frames=setup.model.frames, size=setup.model.pixels)
    path = folder / "videos" / "simulated.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = time_of(
        lambda: write_simulated(path, length, WIDTH // scale, HEIGHT // scale, rendered), CPU
    )
    videos = _settings(path.parent)
    target = folder / "frames"
    prepared = time_of(lambda: prepare_frames(videos, target, clip.size), CPU)
    cache = folder / "cache"
    write_random_cache(cache, videos, setup.model, clip)
    latents = [name for name in setup.model.cached_shapes if not name.startswith("prior.")]

    cached = dataclasses.replace(videos, cache=str(cache))
    draws: dict[str, Draw] = {
        WHOLE: functools.partial(draw_from_whole, path, clip),
        OWN: functools.partial(ClipDataset(videos, clip).draw, 0),
        "prepared frames": functools.partial(ClipDataset(_settings(target), clip).draw, 0),
        "cache, latents": functools.partial(CachedClips(cached, clip, latents).draw, 0),
        "cache, latents and prior": functools.partial(
            CachedClips(cached, clip, list(setup.model.cached_shapes)).draw, 0
        ),
    }
    works = {name: _Numbered(draw) for name, draw in draws.items()}
    seconds = alternate(works, CPU, setup.rounds)
    needed, keys = needed_frames(path, clip, setup.rounds)
    row_bytes = sum(int(np.prod(s)) * 2 for s in setup.model.cached_shapes.values())
    rows = compared(
        seconds,
        WHOLE,
        predicted={
            OWN: length / needed,
            "prepared frames": length
            * (WIDTH // scale)
            * (HEIGHT // scale)
            / (clip.frames * clip.size**2),
        },
    )
    return Section(
        "data",
        f"Loading {clip.frames} frames at stride {clip.frame_interval} of a video of {length} "
        f"frames of {WIDTH // scale}x{HEIGHT // scale}",
        "s per item",
        rows,
        [
            f"One process, one thread, files in the page cache. The video is simulated "
            f"({rendered} rendered frames, the rest blended, with sensor noise), H.264 of "
            f"{path.stat().st_size / 1e6:.2f} MB with {keys} key frames; a clip's last frame lies "
            f"{needed:.0f} frames behind its key frame on average, and pictures that no other "
            f"builds on are skipped. Predicted: frames, or pixels, that are not decoded.",
            f"Once for the video: frames prepared in {prepared:.1f} s (simulating it took "
            f"{written:.1f} s). The cache keeps {row_bytes / 1e3:.0f} kB of a frame from one side "
            f"and checks each frame's checksum the first time that it is read.",
        ],
    )


class _Numbered:
    """A work whose every call draws by the next random numbers, the same for all variants."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.calls = draw, 0

    def __call__(self) -> object:
        self.calls += 1
        return self.draw(np.random.default_rng(self.calls))


def write_simulated(path: Path, frames: int, width: int, height: int, rendered: int) -> None:
    """A wide simulated video of some rendered frames; nothing where it is there."""
    if path.is_file():
        return
    size = max(64, min(256, height // 2))
    clip = simulate_clip(0, frames=rendered, size=size)
    corners = torch.from_numpy(clip.video).permute(0, 3, 1, 2).float()
    corners = F.interpolate(corners, (width, width), mode="bicubic", align_corners=False)
    top = (width - height) // 2
    corners = corners[:, :, top : top + height]
    generator = torch.Generator().manual_seed(0)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    for k in range(frames):
        place = k * (rendered - 1) / (frames - 1)
        first = min(int(place), rendered - 2)
        blend = torch.lerp(corners[first], corners[first + 1], place - first)
        noise = torch.randn(blend.shape, generator=generator) * SENSOR_NOISE
        picture = (blend + noise).clamp_(0, 255).to(torch.uint8)
        pictures[k] = picture.permute(1, 2, 0).numpy()
    write_video(path, pictures, FRAME_RATE, crf=QUALITY)


def draw_from_whole(path: Path, clip: ClipConfig, random: np.random.Generator) -> Tensor:
    """The item as the published code has it: every frame of the video to RGB, then the clip's."""
    video = torch.stack(list(iterate_frames(path)))
    where = choose_clip(len(video), clip, False, random).where
    return resize_centre_crop(video[where], clip.size)


def prepare_frames(videos: DataConfig, target: Path, size: int) -> None:
    """The video as a folder of small JPEG files, as process_data.py makes them."""
    shutil.rmtree(target, ignore_errors=True)
    for source in open_sources(videos):
        extract(source, target, ExtractionSettings(target_size=size))


def needed_frames(path: Path, clip: ClipConfig, rounds: int) -> tuple[float, int]:
    """How many frames lie, on average over the timed clips, from the key frame before the first
    frame of a clip to its last one; and the number of key frames."""
    table = frame_table(path)
    counts = []
    for number in range(2, 2 + rounds):
        where = choose_clip(len(table), clip, False, np.random.default_rng(number)).where
        key = int(table.keys[table.key_before(where[0])])
        begin = int(np.searchsorted(np.asarray(table.stamps), key))
        counts.append(where[-1] + 1 - begin)
    return float(np.mean(counts)), len(table.keys)


def write_random_cache(folder: Path, videos: DataConfig, model: Model, clip: ClipConfig) -> None:
    """A cache of the right shapes with random numbers in it, by the code that makes real ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = RunConfig(method_name="endora", output="", clip=clip, data=videos)
    method = _RandomParts(model)
    index, sources = plan_cache(config, method, CPU, "fp16", "python -m tools.benchmark")
    encoder = Encoder(index, sources, method, CPU, 32)
    for shard in range(index.shards):
        encoder.write(shard, folder, lambda frames: None)
    sizes = [(folder / shard_name(shard)).stat().st_size for shard in range(index.shards)]
    write_index(dataclasses.replace(index, shard_bytes=sizes), folder)


class _RandomParts(BenchmarkedEndora):
    """Endora whose codec and prior are random numbers."""

    def cached_parts(self, frames: Tensor) -> dict[str, Tensor]:
        assert self.cached is not None
        return {name: torch.randn(len(frames), *shape) for name, shape in self.cached.items()}

    def cache_files(self) -> dict[str, Sequence[Path]]:
        return {}

    def frozen_networks(self) -> dict[str, nn.Module]:
        return {}


def _settings(folder: Path) -> DataConfig:
    return DataConfig(folder=str(folder), images_per_clip=0, flip=False, workers=0)
