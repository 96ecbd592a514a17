"""Weights of other projects' checkpoints under this project's names, read without running them."""

from models.importers.endora import (
    OriginalSizes,
    State,
    import_original,
    imported_name,
    original_sizes,
    original_state,
)

__all__ = [
    "OriginalSizes",
    "State",
    "import_original",
    "imported_name",
    "original_sizes",
    "original_state",
]
