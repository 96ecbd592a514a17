"""How commands report what a user can cause: one line, a non-zero exit, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

USER_ERRORS = (ValueError, OSError, FloatingPointError)


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
    sys.exit(status or 0)


def one_line(error: BaseException) -> str:
    """The message of an error with its line breaks folded, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
