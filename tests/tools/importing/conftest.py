"""The writers of original checkpoints, which several test files need."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def originals() -> ModuleType:
    """See `originals.py` beside this file."""
    path = Path(__file__).with_name("originals.py")
    specification = importlib.util.spec_from_file_location("original_checkpoints", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
