"""Find a method by its file name: models/methods/NAME.py with a class called METHOD."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from configs.schema import MethodConfig, RunConfig
from models.interface import CachedShapes, Method


def method_names() -> list[str]:
    """All methods there are, sorted."""
    return sorted(
        file.stem
        for file in (Path(__file__).parent / "methods").glob("*.py")
        if not file.stem.startswith("_")
    )


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises ValueError, with the known names, for an unknown one."""
    if name not in method_names():
        close = difflib.get_close_matches(name, method_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(method_names())}"
        raise ValueError(f"method_name: no method called {name!r}; {hint}")
    return importlib.import_module(f"models.methods.{name}").METHOD


def method_config(name: str) -> type[MethodConfig]:
    """The settings class of a method."""
    return method_class(name).Config


def build_method(
    config: RunConfig, *, training: bool = True, cached: CachedShapes | None = None
) -> Method:
    """The method that a run's settings describe, its helpers on the CPU; see `Method`."""
    build = method_class(config.method_name)
    clip = config.clip
    return build(config.method, clip.shape, training=training, cached=cached, times=clip.times)
