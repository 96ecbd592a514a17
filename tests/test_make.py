"""The Makefile and .ci/run, with stand-ins for Python and make: nothing is installed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

# Stands for Python: it is usable, makes a `.venv` that holds itself, and notes what it runs.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
    *"pip install"*) exit "${INSTALL_STATUS:-0}" ;;
    *"venv --clear"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    *"import torch"*) exit "${PAIR_STATUS:-0}" ;;
esac
"""


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile and small requirements."""
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


# `make test` itself hands these on to the makes of its tests.
OUTER = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PYTHON"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OUTER}


def make(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={project / 'python'}", *arguments],
        cwd=project,
        env={**ENVIRONMENT, "CALLS": str(project / "calls"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def calls(project: Path, part: str) -> int:
    """How often Python was called with `part` in its arguments since the last question."""
    log = project / "calls"
    count = sum(part in line for line in log.read_text().splitlines()) if log.exists() else 0
    log.write_text("")
    return count


def test_setup_installs_once(project: Path) -> None:
    assert make(project, "setup").returncode == 0
    assert calls(project, "pip install") == 1
    assert make(project, "setup").returncode == 0
    assert calls(project, "pip install") == 0


def test_changed_requirements_are_installed_into_the_same_environment(project: Path) -> None:
    make(project, "setup")
    calls(project, "")
    newer = (project / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(project / "requirements.txt", (newer, newer))
    make(project, "setup")
    assert "pip install" in (project / "calls").read_text()
    assert calls(project, "venv --clear") == 0


def test_an_interrupted_installation_starts_again_from_nothing(project: Path) -> None:
    assert make(project, "setup", INSTALL_STATUS="1").returncode != 0
    assert not (project / ".venv" / ".installed").exists()
    (project / ".venv" / "half_a_package").touch()
    assert make(project, "setup").returncode == 0
    assert not (project / ".venv" / "half_a_package").exists()


def test_packages_that_do_not_belong_together_are_told(project: Path) -> None:
    done = make(project, "setup", PAIR_STATUS="1")
    assert done.returncode != 0
    assert "torch and torchvision in .venv do not belong together" in done.stderr
    assert not (project / ".venv" / ".installed").exists()


@pytest.mark.parametrize("python", ["/nowhere/python3.9", "false", ""])
def test_an_unusable_python_is_told_with_what_to_do(project: Path, python: str) -> None:
    done = make(project, "setup", f"PYTHON={python}")
    assert done.returncode != 0
    assert "error: no Python 3.10, 3.11 or 3.12" in done.stderr
    assert "make PYTHON=/path/to/python3.11 setup" in done.stderr
    assert not (project / ".venv").exists()


def test_make_alone_lists_the_targets(project: Path) -> None:
    listed = make(project).stdout
    for target in ("demo", "test", "setup", "check", "format", "pretrain"):
        assert f"\n{target} " in f"\n{listed}"


def test_pretrain_makes_the_weights_that_the_demo_names(root: Path, project: Path) -> None:
    commands = make(project, "--dry-run", "pretrain").stdout.replace("\\\n", " ").splitlines()
    configs = [path for line in commands for path in re.findall(r"--config (\S+)", line)]
    assert configs
    needed = "\n".join((root / path).read_text() for path in [*configs, "configs/demo/endora.yaml"])
    exported = {path for line in commands for path in re.findall(r"--output (\S+)", line)}
    assert set(re.findall(r"[\w/]+\.safetensors", needed)) == exported
    runs = {path for line in commands for path in re.findall(r"--checkpoint (\S+)", line)}
    assert runs == set(re.findall(r"^output: (runs/pretrain/\S+)", needed, re.MULTILINE))


@pytest.mark.parametrize(
    ("demo", "test", "status"), [("0", "0", 0), ("1", "0", 1), ("0", "1", 1), ("2", "2", 1)]
)
def test_ci_runs_both_commands_and_fails_when_either_does(
    root: Path, tmp_path: Path, demo: str, test: str, status: int
) -> None:
    (tmp_path / "make").write_text(
        '#!/usr/bin/env bash\necho "made $*"\ncase $1 in demo) exit $DEMO ;; test) exit $TEST ;; '
        "esac\nexit 9\n"
    )
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(root / ".ci" / "run")],
        env={**ENVIRONMENT, "PATH": path, "DEMO": demo, "TEST": test},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["made demo", "made test"]
    assert done.returncode == status
