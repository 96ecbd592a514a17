"""The README keeps its word: its smoke commands run as printed, and what it names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
NOT_COPIED = {"data", "runs", ".venv", ".git", ".ci", ".github", "tests"}


def blocks(kind: str) -> list[str]:
    """The contents of the code blocks whose fence says exactly `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder that looks like the repository, without anybody's data and runs in it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in NOT_COPIED and not path.name.endswith("_cache"):
            (folder / path.name).symlink_to(path)
    # Scripts find the root from their own place, so their folder must be a real one.
    (folder / "sample").unlink()
    (folder / "sample").mkdir()
    for path in (ROOT / "sample").iterdir():
        if path.is_file():
            (folder / "sample" / path.name).symlink_to(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("bash smoke"))
def test_smoke_commands_run_as_printed(copy: Path, tmp_path: Path, block: str) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block],
        cwd=copy,
        env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHON": "python"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (copy / "runs" / "try" / "samples" / "000001.mp4").is_file()
    assert (copy / "runs" / "try" / "report.html").is_file()


def test_there_is_a_smoke_block() -> None:
    assert blocks("bash smoke")


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_all_commands_are_valid_shell() -> None:
    for kind in ("bash", "bash smoke"):
        for block in blocks(kind):
            subprocess.run(["bash", "-n", "-c", block], check=True)


def test_files_it_names_exist() -> None:
    pattern = r"`((?:configs|sample|tools|models|datasets|tests|diffusion)/[\w./-]*\w[\w./-]*)`"
    named = {path for path in re.findall(pattern, README) if "NAME" not in path}
    assert len(named) > 5
    missing = [path for path in sorted(named) if not (ROOT / path).exists()]
    assert not missing


def test_modules_and_scripts_it_names_exist() -> None:
    modules = {f"{name.replace('.', '/')}.py" for name in re.findall(r"-m ([a-z_.]+)", README)}
    scripts = set(
        re.findall(r"(?:bash|sbatch|python) (?:--\S+ )?([\w/]+\.(?:sh|py|slurm))", README)
    )
    missing = [path for path in sorted(modules | scripts) if not (ROOT / path).is_file()]
    assert not missing


def test_make_targets_it_names_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [README, (ROOT / "CONTRIBUTING.md").read_text()]
    named = {
        name
        for text in texts
        for name in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.M)
    }
    targets = {first or second for first, second in named}
    assert len(targets) >= 4
    assert targets <= rules
