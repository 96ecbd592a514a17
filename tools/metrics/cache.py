"""Features that were computed before, found by what they are made of; never stale, no pickle.

An entry is found by its key: the content of the video, what was done to its pixels, and the
extractor. Contents are known by SHA-256; what a file held is remembered as long as its path, size,
times and inode stay (the time of the last change of status, ctime, cannot be set back by a user).

Every file is whole: written under a name of its own and then renamed, so that several processes
may use one folder. It begins with the checksum of what follows, and holds its key in clear.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.training.files import naming

FORMAT = b"endora-cache-1"
# Two changes within one tick of the disk's clock cannot be told apart: what changed less than
# this long ago is hashed again the next time.
SETTLED = 2_000_000_000  # nanoseconds
BLOCK = 1 << 20  # bytes

Outputs = Mapping[str, Tensor]
Identity = list[list[Any]]  # of each file: path, size, mtime, ctime, device, inode

logger = logging.getLogger(__name__)


class Damaged(ValueError):
    """A file of the cache that is not what it has to be."""


def cache_folder() -> Path:
    """$ENDORA_CACHE, or `endora` in the user's cache folder."""
    if given := os.environ.get("ENDORA_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "endora"


def identity(files: Sequence[Path]) -> Identity:
    """What changes when one of the files is written, replaced or moved.

    Raises:  FileNotFoundError naming the file that is gone
    """
    found: Identity = []
    for path in files:
        try:
            status = path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: this file is gone; run again") from None
        times = [status.st_mtime_ns, status.st_ctime_ns]
        found.append([str(path), status.st_size, *times, status.st_dev, status.st_ino])
    return found


class Cache:
    """A folder of features and of what is known about video files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def features(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The outputs stored under a key; None where they have to be computed.

        Says in the log why an entry that is there is of no use.
        """
        path = self._place("features", key)
        try:
            content = _read(path)
            if content is None:
                return None
            stored, outputs = content
            if stored["key"] != key:
                raise Damaged("it was made for something else: " + _difference(stored["key"], key))
            return outputs
        except (Damaged, OSError) as error:
            logger.warning("%s: computed again, since %s", path, error)
            return None

    def store_features(self, key: Mapping[str, Any], outputs: Outputs) -> None:
        """Keep outputs (rows, width) float32 by their names. Raises OSError naming the file."""
        _write(self._place("features", key), {"key": key}, outputs)

    def content_hash(self, files: Sequence[Path]) -> str:
        """SHA-256 of the contents of files, in this order."""
        return str(self.remembered("content", files, lambda: content_hash(files)))

    def remembered(self, what: str, files: Sequence[Path], find: Callable[[], Any]) -> Any:
        """What was found out about the files when they were as they are now, or is found now.

        Inputs:  what is asked of them, and how a plain value answering it is found
        """
        before = identity(files)
        key = {"what": what, "files": _hash_of(before), "first": before[0][0]}
        path = self._place("files", key)
        try:
            content = _read(path)
            if content is not None and content[0]["key"] == key:
                return content[0]["value"]
        except (Damaged, OSError) as error:
            logger.warning("%s: found out again, since %s", path, error)
        value = find()
        settled = time.time_ns() - max(each[3] for each in before) > SETTLED
        if settled and identity(files) == before:
            _write(path, {"key": key, "value": value}, {})
        return value

    def _place(self, kind: str, key: Mapping[str, Any]) -> Path:
        name = _hash_of(key)
        return self.folder / kind / name[:2] / name[2:]


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in this order, reading all of them."""
    total = hashlib.sha256()
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        total.update(digest.digest())
    return total.hexdigest()


# ---------------------------------------------------------------- files of the cache


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Header and tensors of a file; None where there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    kind, _, rest = raw.partition(b"\n")
    checksum, _, body = rest.partition(b"\n")
    if kind != FORMAT:
        raise Damaged("it is no file of this cache, or of another version")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise Damaged("it is damaged: its checksum differs")
    text, _, numbers = body.partition(b"\n")
    header = json.loads(text)
    tensors, start = {}, 0
    for name, shape in header.pop("tensors").items():
        size = 4 * int(np.prod(shape))
        values = np.frombuffer(bytearray(numbers[start : start + size]), dtype="<f4")
        tensors[name] = torch.from_numpy(values.astype(np.float32, copy=False).reshape(shape))
        start += size
    return header, tensors


def _write(path: Path, header: Mapping[str, Any], tensors: Outputs) -> None:
    shapes = {name: list(values.shape) for name, values in tensors.items()}
    body = json.dumps({**header, "tensors": shapes}).encode() + b"\n"
    body += b"".join(v.contiguous().numpy().astype("<f4").tobytes() for v in tensors.values())
    checksum = hashlib.sha256(body).hexdigest().encode()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            # Not forced to the disk: what a power cut spoils, the checksum finds.
            unfinished.write_bytes(b"\n".join((FORMAT, checksum, body)))
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _difference(stored: Any, key: Mapping[str, Any]) -> str:
    if not isinstance(stored, dict):
        return "its key is unreadable"
    names = sorted(name for name in {*stored, *key} if stored.get(name) != key.get(name))
    return ", ".join(names)
