"""Files that are whole or absent, and errors about them that name the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from configs.errors import naming

__all__ = ["PARTIAL", "RecordingFile", "naming", "remove_partial_files", "whole_file"]

PARTIAL = ".partial"  # ending of a file that is still being written


class RecordingFile:
    """A binary file that remembers why a write failed.

    torch.save reports a failed write of its file object as an internal error; the cause is here.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes and return how many."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self.file.flush()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[RecordingFile]:
    """Write a file under another name; on success it replaces `path` in one move.

    The bytes are on the disk before the move (fsync), so a crash or a kill at any moment leaves
    the old file or the new one. On an error the partial file is removed and `path` stays.
    """
    partial = path.with_name(path.name + PARTIAL)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb", buffering=1 << 20) as file:
                recording = RecordingFile(file)
                try:
                    yield recording
                except RuntimeError:
                    if recording.error is None:
                        raise
                    raise recording.error from None
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for file in folder.glob("*" + PARTIAL):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
