"""Why gsplat cannot be used is said in one line, whatever goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tools.reconstruction.splatting import rasterise_gsplat
from tools.reconstruction.splatting.rasterise_gsplat import prepare_compiler, why_not


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return torch.device("cuda")


def test_without_a_gpu() -> None:
    assert why_not(torch.device("cpu")) == "torch sees no CUDA device"


def test_without_the_compiler_the_toolkit_is_named(
    pretended_gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gsplat")
    monkeypatch.setattr(rasterise_gsplat, "prepare_compiler", lambda environment, device: False)
    assert "CUDA toolkit" in why_not(pretended_gpu)


def test_a_trial_that_fails_gives_its_last_line() -> None:
    command = [sys.executable, "-c", "import sys; print('x'); sys.exit('first\\nnvcc broke')"]
    reason = rasterise_gsplat._trial(command, 1)
    assert reason == "its trial ended with code 1: nvcc broke"


def test_a_trial_that_aborts_or_hangs_is_a_reason() -> None:
    reason = rasterise_gsplat._trial([sys.executable, "-c", "import os; os.abort()"], 1)
    assert "code -6" in reason
    reason = rasterise_gsplat._trial([sys.executable, "-c", "import time; time.sleep(60)"], 0.005)
    assert "no picture within" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="the trial works on a machine with a GPU")
def test_the_trial_is_found_by_its_process() -> None:
    reason = rasterise_gsplat._trial([sys.executable, "-m", rasterise_gsplat.__name__], 1)
    assert "NVIDIA" in reason or "CUDA" in reason  # of torch: the module itself was found


def test_a_trial_that_renders_gives_no_reason() -> None:
    assert rasterise_gsplat._trial([sys.executable, "-c", "print('gsplat rendered')"], 1) == ""


def test_a_compiler_counts_only_beside_its_headers(
    pretended_gpu: torch.device, tmp_path: Path
) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    for home in (bare, whole):
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "nvcc").write_text("#!/bin/sh\n")
        (home / "bin" / "nvcc").chmod(0o755)
    (whole / "include").mkdir()
    (whole / "include" / "cuda_runtime.h").touch()
    environment = {"PATH": str(bare / "bin"), "CUDA_PATH": str(whole)}
    assert prepare_compiler(environment, pretended_gpu)
    assert environment["CUDA_HOME"] == str(whole)
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
