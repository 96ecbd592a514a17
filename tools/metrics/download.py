"""Downloads that end as whole, checked files, and go on where they broke off."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from configs.errors import WriteError, naming, one_line
from tools.training.files import PARTIAL

BLOCK = 1 << 20
SILENCE = 60.0  # seconds without a byte after which a server is given up


class DownloadError(OSError):
    """No mirror gave the file; one line with each mirror's reason."""


def open_url(url: str, start: int) -> Any:
    """The response to a request for a file from byte `start` on: the one door to the network."""
    headers = {"User-Agent": "endora", **({"Range": f"bytes={start}-"} if start else {})}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE)


def download(urls: Sequence[str], target: Path, *, size: int | None, sha256: str | None) -> None:
    """Fetch one file from the first of its mirrors that has it.

    It grows under another name, goes on after an interruption where its size is known, and takes
    its name when its size and SHA-256 (as far as known) are right. Several processes may ask for
    one file: the first fetches, the others wait.

    Raises:
        DownloadError  every mirror failed
        WriteError     the folder cannot be written
    """
    partial = target.with_name(target.name + PARTIAL)
    with naming(partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("a+b")
    with file:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        if target.is_file():  # another process was quicker
            partial.unlink(missing_ok=True)
            return
        reasons = []
        for url in urls:
            reason = _fetch(url, file, partial, size, sha256)
            if reason is None:
                with naming(target):
                    os.fsync(file.fileno())
                    os.replace(partial, target)
                return
            reasons.append(f"{url}: {reason}")
    raise DownloadError("; ".join(reasons))


def _fetch(
    url: str, file: IO[bytes], partial: Path, size: int | None, sha256: str | None
) -> str | None:
    """Make the file whole from one mirror, or say why that failed."""
    try:
        _receive(url, file, partial, size)
        _check(file, sha256)
    except WriteError:
        raise
    except (OSError, http.client.HTTPException) as error:
        return one_line(error)
    return None


def _receive(url: str, file: IO[bytes], partial: Path, size: int | None) -> None:
    """Append what is missing. An interrupted file stays, to go on with."""
    start = file.seek(0, os.SEEK_END)
    if size is None or start > size:
        start = file.truncate(0)
    if start == size:
        return
    with open_url(url, start) as response:
        if start and response.status != http.client.PARTIAL_CONTENT:
            start = file.truncate(0)
        length = response.headers.get("Content-Length")
        expected = size or (start + int(length) if length else None)
        received = start
        with _bar(partial.name.removesuffix(PARTIAL), start, expected) as bar:
            while block := response.read(BLOCK):
                with naming(partial):
                    file.write(block)
                received += len(block)
                bar.update(len(block))
    with naming(partial):
        file.flush()
    if expected is not None and received < expected:
        raise OSError(
            f"broke off after {received:,} of {expected:,} bytes; run the same command again"
        )


def _check(file: IO[bytes], sha256: str | None) -> None:
    """Compare the bytes with what is known of them; wrong ones are thrown away."""
    if sha256 is None:
        return
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(BLOCK):
        digest.update(block)
    if digest.hexdigest() != sha256:
        file.truncate(0)
        raise OSError(f"sent another file: its SHA-256 is {digest.hexdigest()}, expected {sha256}")


def _bar(name: str, start: int, total: int | None) -> tqdm[None]:
    pause = 0.2 if sys.stderr.isatty() else 10.0  # seconds between two states of it
    return tqdm(
        desc=name,
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        mininterval=pause,
        file=sys.stderr,
    )
