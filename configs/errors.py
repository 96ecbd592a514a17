"""Errors a user can cause: one line that says what to do, a non-zero exit, no traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

USER_ERRORS = (ValueError, OSError, FloatingPointError)

AGAIN = "and run the same command again (files written before are whole)"
FULL = f"free some space {AGAIN}"
IN_THE_WAY = "a file is where a folder has to be; choose another name"
ADVICE = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EISDIR: "it is a folder; choose another name",
}


class WriteError(OSError):
    """A failed write, told in one line with the file, the cause and what to do."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a failed write into a `WriteError` that names the file.

    An OSError from `write` (disk full, quota) knows neither the file nor a way out. Of nested
    blocks the innermost, which knows best, has the word.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        cause = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, f"make the folder writable {AGAIN}")
        raise WriteError(f"cannot write {path}: {cause}; {advice}") from error


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its status.

    Errors that a user can cause (`USER_ERRORS`) become one line on standard error and exit
    status 2; Ctrl-C becomes status 130. Anything else is a bug and keeps its traceback.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        print("stopped by the user; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    _leave(status or 0)


def _leave(status: int) -> None:
    """End the process after its work is done and its files are closed.

    One of several processes skips the interpreter's own end: threads of torch.distributed may
    still hold tensors by then, and end a finished process with SIGABRT now and again.
    """
    if "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def one_line(error: BaseException) -> str:
    """The message of an error with its line breaks folded, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
