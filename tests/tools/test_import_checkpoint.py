"""The importer as a command: a file in the published layout becomes weights that load."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tools.import_checkpoint import convert, main
from tools.training.weights import read_weights


@pytest.fixture(scope="module")
def golden(root: Path) -> ModuleType:
    """The formula-filled checkpoints of the golden tests."""
    path = root / "tests" / "models" / "test_golden.py"
    specification = importlib.util.spec_from_file_location("golden_of_models", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_command_writes_weights_that_load(
    golden: ModuleType, tmp_path: Path, root: Path
) -> None:
    original, output = tmp_path / "original.pt", tmp_path / "imported.safetensors"
    torch.save({"ema": golden.original("endora_joint")}, original)
    command = ["-m", "tools.import_checkpoint", str(original), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, *command, "--heads", "4"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    weights = read_weights(output)
    config = weights.run_config()
    assert config.clip.frames == 4
    assert config.clip.size == 128
    expected = golden.imported("endora_joint").state_dict()
    torch.testing.assert_close(weights.networks["denoiser"], dict(expected), rtol=0, atol=0)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["import_checkpoint", *arguments])
    main()


def test_what_is_not_an_original_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, golden: ModuleType
) -> None:
    output = str(tmp_path / "out.safetensors")
    cases: dict[str, object] = {
        "not a checkpoint that opens in safe mode": b"garbage",
        "x_embedder": {"model": {"weight": torch.zeros(1)}},
        "holds a list": [1, 2],
    }
    for message, content in cases.items():
        file = tmp_path / "file.pt"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(ValueError, match=message):
            run_main(monkeypatch, str(file), "--output", output)
    with pytest.raises(FileNotFoundError, match="no such file"):
        run_main(monkeypatch, str(tmp_path / "absent.pt"), "--output", output)
    with pytest.raises(ValueError, match="--heads"):
        convert(golden.original("endora"))
    assert not Path(output).exists()


class Malicious:
    """Would create a file when an unsafe reader opens it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_no_code_of_a_file_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"ema": Malicious(trap)}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="safe mode"):
        run_main(
            monkeypatch, str(tmp_path / "evil.pt"), "--output", str(tmp_path / "out.safetensors")
        )
    assert not trap.exists()
