"""The shards of a cache: safetensors files, read through a map of memory, every frame checked.

A shard holds, for each part, a tensor (frames, views, ...), view 1 being the mirrored frame, and
under `crc32/PART` the checksum (frames, views) int64 of each of its rows. The metadata hold the
key (`CacheIndex.shard_key`). The only file of this package that knows safetensors.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datasets.cache_index import CacheIndex, shard_name

CHECKSUM = "crc32/"
OPEN = 256  # shards that one process keeps mapped


def shard_content(parts: Mapping[str, Tensor], key: str) -> bytes:
    """The bytes of a shard file from its parts, each (frames, views, ...) on the CPU."""
    sums = {CHECKSUM + name: row_checksums(values) for name, values in parts.items()}
    return save({**parts, **sums}, {"key": key})


def row_checksums(values: Tensor) -> Tensor:
    """CRC-32 of every row: (frames, views, ...) -> (frames, views) int64."""
    rows = [[_checksum(row) for row in views] for views in values]
    return torch.tensor(rows, dtype=torch.int64)


def shard_problem(path: Path, index: CacheIndex, shard: int) -> str | None:
    """Why a file is not the sound shard that the index wants; every byte is read. None: it is."""
    if not path.is_file():
        return "absent"
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != index.shard_key(shard):
                return "of other videos or settings"
            for name in index.parts:
                if not torch.equal(
                    row_checksums(file.get_tensor(name)), file.get_tensor(CHECKSUM + name)
                ):
                    return f"damaged ({name})"
    except (SafetensorError, OSError) as error:
        return f"damaged ({_first_line(error)})"
    return None


class ShardReader:
    """Frames of a cache by their number in the data set.

    Nothing is read but the frames asked for. Each is checked against its checksum the first time
    that a process reads it.

    Inputs:  the folder and index of a cache, and which of its parts to read
    """

    def __init__(self, folder: Path, index: CacheIndex, parts: Sequence[str]) -> None:
        self.folder = folder
        self.index = index
        self.parts = list(parts)
        self._mapped: OrderedDict[int, dict[str, Tensor]] = OrderedDict()
        self._checked = np.zeros((index.frames, index.views), dtype=bool)

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which every process has to make for itself."""
        return {**self.__dict__, "_mapped": OrderedDict()}

    def read(self, rows: Sequence[tuple[int, bool]]) -> dict[str, Tensor]:
        """The parts of some frames, given as (number, mirrored): each part (len(rows), ...).

        Raises:  ValueError naming a damaged shard
        """
        read: dict[str, Tensor] = {}
        for name in self.parts:
            part = self.index.parts[name]
            read[name] = torch.empty((len(rows), *part.shape), dtype=getattr(torch, part.dtype))
        for place, (number, mirrored) in enumerate(rows):
            shard, inside = divmod(number, self.index.shard_frames)
            tensors, view = self._tensors(shard), int(mirrored)
            for name, values in read.items():
                values[place] = tensors[name][inside, view]
                if not self._checked[number, view]:
                    self._check(shard, tensors, name, inside, view)
            self._checked[number, view] = True
        return read

    def _check(
        self, shard: int, tensors: Mapping[str, Tensor], name: str, inside: int, view: int
    ) -> None:
        if _checksum(tensors[name][inside, view]) != int(tensors[CHECKSUM + name][inside, view]):
            raise ValueError(self._damaged(shard, f"wrong checksum of frame {inside} ({name})"))

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        """Tensors that lie in the mapped file."""
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
            return self._mapped[shard]
        path = self.folder / shard_name(shard)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.index.shard_key(shard):
                    raise ValueError(self._damaged(shard, "of other videos or settings"))
                names = [p + name for name in self.parts for p in ("", CHECKSUM)]
                self._mapped[shard] = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise ValueError(self._damaged(shard, _first_line(error))) from None
        if len(self._mapped) > OPEN:
            self._mapped.popitem(last=False)
        return self._mapped[shard]

    def _damaged(self, shard: int, reason: str) -> str:
        return (
            f"data.cache: {self.folder / shard_name(shard)}: damaged: {reason}; make it anew "
            f"(sound shards stay): {self.index.command}"
        )


def _checksum(row: Tensor) -> int:
    return zlib.crc32(row.reshape(-1).view(torch.uint8).numpy().data)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
