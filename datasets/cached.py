"""The data set of clips from a cache: same windows, flips and images, but nothing to decode.

What is checked, and when: at the start that the cache is finished and fits the settings, that the
videos are those it was made of (by sizes and times; those that differ are read and compared by
their SHA-256), and that every shard has its length; while reading, the checksum of every frame
the first time that a process reads it. Where data.folder is not on this machine, the videos are
not compared, for training does without them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.schema import ClipConfig, DataConfig
from datasets.cache_index import CacheIndex, read_index, shard_name
from datasets.cache_shards import ShardReader
from datasets.clips import choose_clip, open_sources, read_labels
from datasets.fingerprints import source_files, unchanged
from datasets.images import choose_images

PREFIX = "cached/"  # before the name of a part in an item

logger = logging.getLogger(__name__)


class CachedClips(Dataset[dict[str, Tensor]]):
    """One item for every video that is long enough, as `ClipDataset` has them.

    Inputs:      parts, the names of those to read
    Attributes:  counts, the frames of the usable videos; skipped, the number of the others
    Raises:      FileNotFoundError, ValueError saying how the cache differs from what these
                 settings and videos need, and how to make it anew
    """

    def __init__(self, data: DataConfig, clip: ClipConfig, parts: Sequence[str]) -> None:
        assert data.cache is not None
        folder = Path(data.cache)
        index = read_index(folder)
        check_settings(folder, index, data, clip, parts)
        check_shards(folder, index)
        check_sources(folder, index, data)
        self.data = data
        self.clip = clip
        every = [source.frames for source in index.sources]
        self._usable = [k for k, count in enumerate(every) if count >= clip.frames]
        self._ends = np.cumsum(np.asarray(every, dtype=np.int64))
        self._reader = ShardReader(folder, index, parts)
        self.counts = [every[k] for k in self._usable]
        self.skipped = len(every) - len(self._usable)
        if not self._usable:
            raise ValueError(
                f"data.cache: {folder}: none of its {len(every)} videos has the {clip.frames} "
                f"frames of a clip; the longest has {max(every)}"
            )
        usable = [index.sources[k] for k in self._usable]
        self.labels = read_labels(Path(data.labels), usable) if data.labels else None
        logger.info(
            "%s: %d videos, %d frames from a cache; %d shorter than %d frames left out",
            *(folder, len(usable), sum(self.counts), self.skipped, clip.frames),
        )

    def __len__(self) -> int:
        return len(self._usable)

    def draw(self, index: int, random: np.random.Generator) -> dict[str, Tensor]:
        """The item that `ClipDataset.draw` makes of the same random numbers, in cached parts.

        Output:  videos (F, 3, 0, 0) uint8, for there are no pixels; cached/PART (F + I, ...) as
                 stored, the clip's frames followed by the images; labels () int64
        """
        chosen = choose_clip(self.counts[index], self.clip, self.data.flip, random)
        begin = self._begin(self._usable[index])
        rows = [(begin + frame, chosen.mirrored) for frame in chosen.where]
        if self.data.images_per_clip:
            images = choose_images(self._ends, self.data.images_per_clip, self.data.flip, random)
            rows += [(self._begin(i.source) + i.frame, i.mirrored) for i in images]
        item = {"videos": torch.empty((self.clip.frames, 3, 0, 0), dtype=torch.uint8)}
        item |= chosen.time_tensors()
        item |= {PREFIX + name: values for name, values in self._reader.read(rows).items()}
        if self.labels is not None:
            item["labels"] = torch.tensor(self.labels[index], dtype=torch.int64)
        return item

    def _begin(self, source: int) -> int:
        return int(self._ends[source - 1]) if source else 0


def check_settings(
    folder: Path, index: CacheIndex, data: DataConfig, clip: ClipConfig, parts: Sequence[str]
) -> None:
    """Raise ValueError where a cache lacks what the settings need. Mirrored frames and parts that
    are not needed do no harm."""
    problems = []
    if index.size != clip.size:
        problems.append(f"it is of frames of {index.size} pixels, clip.size is {clip.size}")
    if data.flip and not index.flips:
        problems.append("it has no mirrored frames, data.flip is true")
    missing = [name for name in parts if name not in index.parts]
    if missing:
        problems.append(f"it has no {', '.join(missing)}")
    if problems:
        raise ValueError(f"data.cache: {folder}: {'; '.join(problems)}; {other_cache(folder)}")


def check_shards(folder: Path, index: CacheIndex) -> None:
    """Raise ValueError where a shard is missing or has another length than when it was made."""
    if not index.is_complete:
        raise ValueError(f"data.cache: {folder}: not finished; go on with: {index.command}")
    for shard, expected in enumerate(index.shard_bytes):
        path = folder / shard_name(shard)
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            state = "missing" if found is None else f"damaged: {found} of {expected} bytes"
            raise ValueError(
                f"data.cache: {path}: {state}; make it anew (sound shards stay): {index.command}"
            )


def check_sources(folder: Path, index: CacheIndex, data: DataConfig) -> None:
    """Raise ValueError where the videos are not those that were cached."""
    root = Path(data.list or data.folder)
    if not root.exists():
        logger.warning("%s is not here, so the videos of the cache are not compared", root)
        return
    found = {source.name: source for source in open_sources(data)}
    known = {source.name: source for source in index.sources}
    removed = [name for name in known if name not in found]
    added = [name for name in found if name not in known]
    both = [name for name in known if name in found]
    try:
        same = unchanged((source_files(found[name]), known[name].files) for name in both)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename}: no such file") from None
    changed = [name for name, alike in zip(both, same, strict=True) if not alike]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("changed", changed), ("added", added), ("removed", removed))
        if names
    ]
    if not differences and list(found) != list(known):
        differences = ["their order differs"]
    if differences:
        raise ValueError(
            f"data.cache: {folder}: its videos differ from those of {root}: "
            f"{', '.join(differences)}; bring it up to date (what fits stays): {index.command}"
        )


def other_cache(folder: Path) -> str:
    """What to do about a cache that was made with other settings."""
    return (
        f"make one with the settings of this run: python -m tools.cache --config FILE "
        f"[KEY=VALUE ...] --output OTHER, or with --replace --output {folder}"
    )
