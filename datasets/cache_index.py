"""The index of a cache: of which frames, sizes and networks its shards are.

A cache is a folder with `index.json` and `shard_00000.safetensors` and so on (`cache_shards`). It
holds every frame of every video, in the order of the data set, so that it serves any number of
frames in a clip, any interval between them and any number of extra images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.fingerprints import Fingerprint

FORMAT = 1  # raised when what a cache holds changes its meaning
NAME = "index.json"
SHARD_BYTES = 128 * 2**20  # aimed at
LEAST_SHARDS = 16  # of data sets that are small, so that processes have something to share


@dataclass(frozen=True)
class Part:
    """One tensor of each frame, such as its latent: the type is a name in torch."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Of one frame, seen from one side."""
        count = 1
        for side in self.shape:
            count *= side
        return count * (4 if self.dtype == "float32" else 2)


@dataclass(frozen=True)
class CachedSource:
    """One video of the data set, as it was when it was cached."""

    name: str
    frames: int
    files: Fingerprint


@dataclass(frozen=True)
class CacheIndex:
    """All that says what a cache holds; see `CacheIndex.content` for what its identity is."""

    method_name: str
    identity: Mapping[str, Any]  # of `Method.cache_identity`
    networks: Mapping[str, str]  # SHA-256 of the weights of each frozen network, as they were used
    files: Mapping[str, Fingerprint]  # of the files these came from, where there were files
    size: int  # clip.size, pixels
    flips: bool  # also the mirrored frames
    parts: Mapping[str, Part]
    sources: Sequence[CachedSource]
    shard_frames: int  # in every shard but the last
    command: str  # that made it
    shard_bytes: Sequence[int] = ()  # of every finished file; empty until all are there

    @property
    def frames(self) -> int:
        """Of all videos."""
        return sum(source.frames for source in self.sources)

    @property
    def views(self) -> int:
        """2 with the mirrored frames, else 1."""
        return 2 if self.flips else 1

    @property
    def frame_bytes(self) -> int:
        """Of a frame from all its sides, checksums included."""
        return self.views * sum(part.bytes + 8 for part in self.parts.values())

    @property
    def shards(self) -> int:
        """How many files hold the frames."""
        return -(-self.frames // self.shard_frames)

    @property
    def is_complete(self) -> bool:
        """Whether every shard has been written."""
        return len(self.shard_bytes) == self.shards

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parts of one frame."""
        return {name: part.shape for name, part in self.parts.items()}

    @property
    def content(self) -> dict[str, Any]:
        """What makes two caches of the same videos the same. Where weights lie is no part of it,
        for what they are is."""
        identity = {
            name: {key: value for key, value in settings.items() if key != "weights"}
            for name, settings in self.identity.items()
        }
        parts = {name: [list(part.shape), part.dtype] for name, part in self.parts.items()}
        return {
            "format": FORMAT,
            "method": self.method_name,
            "identity": identity,
            "networks": dict(self.networks),
            "size": self.size,
            "flips": self.flips,
            "parts": parts,
            "shard_frames": self.shard_frames,
        }

    def segments(self, shard: int) -> list[tuple[int, int, int]]:
        """What a shard holds: (source, its first frame, the frame after its last one)."""
        begin, end = shard * self.shard_frames, (shard + 1) * self.shard_frames
        found, passed = [], 0
        for number, source in enumerate(self.sources):
            first, last = max(begin - passed, 0), min(end - passed, source.frames)
            if first < last:
                found.append((number, first, last))
            passed += source.frames
        return found

    def shard_key(self, shard: int) -> str:
        """SHA-256 of all that a shard's values depend on; it is written into the shard. A video
        more leaves the keys of the shards before it as they are."""
        held = [(self.sources[n].files.sha256, a, b) for n, a, b in self.segments(shard)]
        text = json.dumps([self.content, held], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def shard_name(shard: int) -> str:
    """The name of a shard's file."""
    return f"shard_{shard:05d}.safetensors"


def frames_of_shard(frame_bytes: int, frames: int) -> int:
    """How many frames make a shard."""
    return max(1, min(SHARD_BYTES // frame_bytes, -(-frames // LEAST_SHARDS)))


def index_text(index: CacheIndex) -> str:
    """The index as JSON."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(index)}, indent=1) + "\n"


def read_index(folder: Path) -> CacheIndex:
    """The index of a cache.

    Raises:  FileNotFoundError, ValueError in one line where it is absent, damaged or of another
             version
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"data.cache: no {path}; make it: python -m tools.cache --config FILE [KEY=VALUE ...] "
            f"--output {folder}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format")
        if version != FORMAT:
            raise ValueError(f"its format is {version}, this version reads {FORMAT}")
        return _index_from(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"data.cache: {path}: not readable as the index of a cache: {reason}; delete "
            f"{folder} and make it anew with tools.cache"
        ) from None


def _index_from(values: dict[str, Any]) -> CacheIndex:
    parts = {n: Part(tuple(p["shape"]), p["dtype"]) for n, p in values.pop("parts").items()}
    files = {name: Fingerprint(**each) for name, each in values.pop("files").items()}
    sources = [
        CachedSource(s["name"], s["frames"], Fingerprint(**s["files"]))
        for s in values.pop("sources")
    ]
    return CacheIndex(parts=parts, files=files, sources=sources, **values)
