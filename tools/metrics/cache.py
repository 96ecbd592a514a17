"""Features that were computed before, found by what they are made of; never stale, no pickle."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$ENDORA_CACHE, or `endora` in the user's cache folder."""
    if given := os.environ.get("ENDORA_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "endora"
