"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tools.training.files import naming
from tools.training.runtime import Runtime


@contextlib.contextmanager
def only_process(folder: Path, runtime: Runtime) -> Iterator[None]:
    """Hold a run folder (the main process does); the lock ends with this process, however it ends.

    Raises ValueError when another process of this machine holds it. The lock is of the kind that
    child processes do not inherit, so data workers that outlive a killed run do not keep it.
    """
    if not runtime.is_main:
        yield
        return
    path = folder / ".lock"
    with naming(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process works in this folder; wait for it or choose another "
                f"`output`"
            ) from None
        except OSError:
            pass  # some network disks have no locks; then the user has to take care
        yield
