from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs.errors import run_command
from configs.load import load_run
from models.registry import build_method, method_config
from tools.export import main
from tools.training.checkpoints import Checkpoints
from tools.training.runtime import Runtime
from tools.training.state import TrainState
from tools.training.weights import RAW, load_for_sampling, read_weights, write_weights

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Path:
    """A run folder whose weights are 1, 2 and 3: raw, first and second average."""
    overrides = [
        "clip.frames=2",
        "clip.size=8",
        "train.ema_decays=[0.9,0.99]",
        f"output={tmp_path / 'run'}",
    ]
    config = load_run(root / "configs/demo/toy.yaml", overrides, method_config)
    state = TrainState(build_method(config), config.train, CPU)
    with torch.no_grad():
        state.networks["mean"].pixels.fill_(1)
        for value, average in enumerate(state.averages, start=2):
            average.networks["mean"].pixels.fill_(value)
    for step in (7, 8):
        state.step = step
        Checkpoints(config, CPU).save(state)
    return tmp_path / "run"


@pytest.mark.parametrize(("ema", "value", "decay"), [(RAW, 1, None), (0, 2, 0.9), (1, 3, 0.99)])
def test_a_checkpoint_holds_raw_and_average_weights(
    run: Path, ema: int, value: float, decay: float | None
) -> None:
    weights = read_weights(run, ema)
    assert float(weights.networks["mean"]["pixels"].mean()) == value
    assert weights.ema_decay == decay
    assert (weights.step, weights.method_name) == (8, "toy")


def test_a_run_folder_means_its_newest_checkpoint(run: Path) -> None:
    assert read_weights(run / "checkpoints").step == 8
    assert read_weights(run / "checkpoints" / "step_00000007.pt").step == 7


def test_an_average_that_is_not_there_is_one_line(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no average number 2; the run has the decays \[0.9, 0"):
        read_weights(run, 2)


def export(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code


@pytest.mark.parametrize(("dtype", "kept"), [("float32", 2 + 2**-20), ("float16", 2.0)])
def test_exported_weights_come_back(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kept: float
) -> None:
    content = torch.load(run / "checkpoints/step_00000008.pt", weights_only=True)
    content["ema"][0]["mean"]["pixels"].fill_(2 + 2**-20)
    torch.save(content, run / "checkpoints/step_00000008.pt")
    path = tmp_path / "out.safetensors"
    assert export(monkeypatch, "--checkpoint", run, "--output", path, "--dtype", dtype) == 0
    weights = read_weights(path)
    assert float(weights.networks["mean"]["pixels"][0, 0, 0, 0, 0]) == kept
    assert (weights.step, weights.ema_decay) == (8, 0.9)
    assert weights.config == read_weights(run).config
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["mean/pixels"]


def test_vectors_are_not_rounded(run: Path, tmp_path: Path) -> None:
    weights = read_weights(run)
    exact = torch.tensor([-20.01, 400.5])  # the mean of something and of its square
    networks = {"mean": {"moments": exact, "kernel": exact.double()[None]}}
    write_weights(tmp_path / "out.safetensors", replace(weights, networks=networks), torch.float16)
    back = read_weights(tmp_path / "out.safetensors").networks["mean"]
    assert torch.equal(back["moments"], exact)
    assert back["kernel"].dtype == torch.float16


def test_sampling_gets_method_networks_and_settings(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    write_weights(path, read_weights(run, 1))
    for source, ema in ((run, 1), (path, 0)):
        method, networks, config = load_for_sampling(source, ema, "cpu")
        assert method.shape.batch(1) == (1, 2, 3, 8, 8)
        assert config.train.ema_decays == [0.9, 0.99]
        assert float(networks["mean"].pixels.mean()) == 3
        assert not networks["mean"].training
        assert not any(p.requires_grad for p in networks["mean"].parameters())


def rewritten(path: Path, run: Path, **changes: str) -> Path:
    """Exported weights with other metadata."""
    write_weights(path, read_weights(run))
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**metadata, **changes})
    return path


def test_metadata_are_not_trusted(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    config = read_weights(run).config
    cases = {
        "incomplete or damaged": {"config": "{"},
        "wrong types": {"config": "[1]"},
        "no method called '../x'": {"method_name": "../x"},
        "unknown key": {"config": json.dumps({**config, "evil": 1})},
        r"clip\.size: at least 8": {"config": json.dumps({**config, "clip": {"size": 2}})},
        r"pixels is \(1, 2, 3, 8, 8\)": {"config": json.dumps({**config, "clip": {"size": 16}})},
    }
    for message, changes in cases.items():
        rewritten(path, run, **changes)
        with pytest.raises(ValueError, match=message) as error:
            load_for_sampling(path)
        assert "\n" not in str(error.value)


def test_a_wrong_kind_of_file_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    cases = {
        "text.safetensors": "damaged, or no safetensors file",
        "other.safetensors": "not exported by this project",
        "empty": "no checkpoint in this folder",
        "absent.pt": "no such run folder, checkpoint or weights file",
    }
    for name, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            read_weights(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_the_command_refuses_another_ending(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, "--checkpoint", run, "--output", tmp_path / "out.pt") == 2
    assert "has to end in .safetensors" in capsys.readouterr().err
