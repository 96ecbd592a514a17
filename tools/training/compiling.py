"""torch.compile of the networks in training, region by region."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def wants_compiling(setting: bool | str, device: torch.device) -> bool:
    """Whether to compile: `train.compile`, where `auto` means on a GPU.

    On a CPU nearly all of a step are matrix products, which compiling leaves as they are. Where
    the machine lacks a compiler, one line says so and training goes on without.
    """
    wanted = device.type == "cuda" if setting == "auto" else bool(setting)
    missing = missing_tool(device.type) if wanted else None
    if missing:
        _warn_once(f"train.compile: {missing}; training goes on uncompiled, which is slower")
    return wanted and missing is None


def missing_tool(device_type: str) -> str | None:
    """What torch.compile lacks on this machine for a kind of device, in words, or None."""
    if device_type == "cuda" and find_spec("triton") is None:
        return "the package triton is not installed"
    variable, usual = ("CC", ("gcc", "clang")) if device_type == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable)
    if any(shutil.which(name) for name in ([named] if named else usual)):
        return None
    return f"no compiler found ({' or '.join(usual)}, or what the variable {variable} names)"


def compile_regions(
    network: nn.Module, backend: str | Callable[..., Any] = "inductor", *, sharded: bool = False
) -> None:
    """Compile a network in place; parameters and their names stay as they are.

    Modules whose class says `compiled_alone` are compiled each for itself, without graph breaks
    and for fixed shapes: modules of one class share one code, so that a network of 28 blocks
    compiles as fast as one of 2, and gradients are exchanged block by block. A network without
    such modules is compiled as a whole, around those that say `never_compiled`. Of `sharded` ones
    only their own code is compiled, not what gathers their parameters before it.
    """
    # Of the compiler's own look at its inputs; nobody else needs that attribute.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    # A block is small enough; split further, it would lose what compiling fuses.
    torch._dynamo.config.optimize_ddp = False
    # Blocks of one class share one code, with a variant for each of their shapes; a U-Net has more
    # of those than the 8 that are kept at most, beyond which `fullgraph` would be an error.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for module in network.modules():
        if getattr(module, "never_compiled", False):
            module.forward = torch.compiler.disable(module.forward)
    regions = [module for module in network.modules() if getattr(module, "compiled_alone", False)]
    for region in regions:
        if sharded:
            compiled = torch.compile(region.forward, fullgraph=True, dynamic=False, backend=backend)
            region.forward = compiled
        else:
            region.compile(fullgraph=True, dynamic=False, backend=backend)
    if not regions:
        network.compile(backend=backend)


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)
