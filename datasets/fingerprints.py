"""Whether files are still what they were: quickly by size and times, surely by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datasets.sources import FrameFolder, Source

PIECE = 1 << 20  # bytes read at once
THREADS = 8  # hashing and waiting for a disk both leave the interpreter free


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a group of files, such as the frames of one video.

    `stamp` changes when a size, a time of modification or of status changes, and costs no
    reading; `sha256` is that of sizes and contents, in order. Names count in neither.
    """

    bytes: int
    stamp: str
    sha256: str


def fingerprint(files: Sequence[Path]) -> Fingerprint:
    """Read the files and remember them. Raises FileNotFoundError where one is absent."""
    size, mark = stamp(files)
    return Fingerprint(size, mark, content(files))


def fingerprints(groups: Sequence[Sequence[Path]]) -> list[Fingerprint]:
    """One for each group of files, several read at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(fingerprint, groups))


def unchanged(groups: Iterable[tuple[Sequence[Path], Fingerprint]]) -> list[bool]:
    """Whether each group holds what its fingerprint says; read only where the stamp differs."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda pair: is_unchanged(*pair), groups))


def is_unchanged(files: Sequence[Path], known: Fingerprint) -> bool:
    """See `unchanged`."""
    size, mark = stamp(files)
    return mark == known.stamp or (size == known.bytes and content(files) == known.sha256)


def stamp(files: Sequence[Path]) -> tuple[int, str]:
    """Bytes in all, and a digest of the sizes and times of the files."""
    digest, total = hashlib.blake2b(digest_size=16), 0
    for file in files:
        status = file.stat()
        total += status.st_size
        digest.update(f"{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns};".encode())
    return total, digest.hexdigest()


def content(files: Sequence[Path]) -> str:
    """The SHA-256 of the sizes and contents of the files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.stat().st_size};".encode())
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()


def source_files(source: Source) -> list[Path]:
    """The files that a video is made of, in the order of its frames."""
    if isinstance(source, FrameFolder):
        return [source.image(index) for index in range(len(source.images))]
    return [source.path]
