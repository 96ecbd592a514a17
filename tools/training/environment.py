"""What a run was made with: commit, packages, device, command."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tools.training.runtime import Runtime

PACKAGES = ("torch", "torchvision", "numpy", "omegaconf", "diffusers", "timm", "av", "decord")
ROOT = Path(__file__).resolve().parents[2]


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that may shape a result."""
    installed = {name: _version(name) for name in PACKAGES}
    versions = {name: version for name, version in installed.items() if version}
    return {"python": platform.python_version(), **versions}


def describe_environment(runtime: Runtime) -> dict[str, Any]:
    """Plain values for environment.json."""
    on_gpu = runtime.device.type == "cuda"
    return {
        "command": sys.argv,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_has_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "packages": package_versions(),
        "cuda": torch.version.cuda if on_gpu else None,
        "device": torch.cuda.get_device_name(runtime.device)
        if on_gpu
        else f"cpu ({platform.machine()})",
        "host": platform.node(),
        "world_size": runtime.world_size,
        "bf16": runtime.bf16,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """The output of a git command in this repository; None without git or repository."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
