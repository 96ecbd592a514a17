from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load_run
from configs.schema import RunConfig
from models.registry import build_method, method_class, method_config
from tools.training.checkpoints import Checkpoints, checkpoint_files, flatten, read_checkpoint
from tools.training.runtime import Runtime
from tools.training.state import TrainState

CPU = Runtime(torch.device("cpu"))
TOY = Path("configs/demo/toy.yaml")


def settings(output: Path, *overrides: str, root: Path) -> RunConfig:
    small = ["clip.frames=2", "clip.size=8", f"output={output}"]
    return load_run(root / TOY, [*small, *overrides], method_config)


def make(config: RunConfig, step: int = 0) -> tuple[Checkpoints, TrainState]:
    state = TrainState(build_method(config), config.train, CPU)
    state.step = step
    return Checkpoints(config, CPU), state


def save(config: RunConfig, *steps: int) -> Path:
    checkpoints, state = make(config)
    for step in steps:
        state.step = step
        checkpoints.save(state)
    return Path(config.output) / "checkpoints"


def test_a_folder_without_checkpoints_starts_anew(tmp_path: Path, root: Path) -> None:
    checkpoints, state = make(settings(tmp_path / "run", root=root))
    assert not checkpoints.load_latest(state)
    assert state.step == 0


def test_the_newest_by_step_is_loaded(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, root=root)
    folder = save(config, 900)
    checkpoints, state = make(config)
    with torch.no_grad():
        state.networks["mean"].pixels.fill_(0.5)
    state.step = 1000
    checkpoints.save(state)
    (folder / "step_00000100.pt").write_bytes(b"old and broken, but nobody looks")
    checkpoints, state = make(config)
    assert checkpoints.load_latest(state)
    assert state.step == 1000
    assert torch.equal(state.networks["mean"].pixels, torch.full((1, 2, 3, 8, 8), 0.5))


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["train.keep_last=2"], [7, 8]),
        (["train.keep_last=1", "train.keep_every=3"], [3, 6, 8]),
    ],
)
def test_old_checkpoints_go(
    tmp_path: Path, root: Path, overrides: list[str], kept: list[int]
) -> None:
    folder = save(settings(tmp_path, *overrides, root=root), *range(1, 9))
    assert sorted(checkpoint_files(folder)) == kept
    assert len(list(folder.iterdir())) == len(kept)


def test_saving_is_due_every_so_often_and_at_the_end(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, "train.save_every=4", "train.steps=10", root=root)
    checkpoints, state = make(config)
    for step in range(1, 11):
        state.step = step
        checkpoints.save_if_due(state)
    assert sorted(checkpoint_files(tmp_path / "checkpoints")) == [4, 8, 10]


def test_content_is_plain_and_complete(tmp_path: Path, root: Path) -> None:
    folder = save(settings(tmp_path, root=root), 5)
    content = torch.load(folder / "step_00000005.pt", weights_only=True)
    assert content["method_name"] == "toy"
    expected = {"frames": 2, "size": 8, "frame_interval": 2}
    assert expected.items() <= content["config"]["clip"].items()
    assert content["step"] == 5
    assert str(torch.__version__).startswith(content["versions"]["torch"])
    assert list(content["networks"]["mean"]) == list(content["ema"][0]["mean"]) == ["pixels"]
    assert "param_groups" in content["optimizers"]["mean"]


def test_halves_of_a_killed_save_are_removed(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, root=root)
    folder = save(config, 5)
    (folder / "step_00000006.pt.partial").write_bytes(b"half")
    checkpoints, state = make(config)
    checkpoints.load_latest(state)
    assert [file.name for file in folder.iterdir()] == ["step_00000005.pt"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_weight, empty])
def test_a_damaged_file_is_named_with_a_way_on(tmp_path: Path, root: Path, damage: Any) -> None:
    config = settings(tmp_path, root=root)
    folder = save(config, 5, 6)
    damage(folder / "step_00000006.pt")
    checkpoints, state = make(config)
    with pytest.raises(ValueError, match=r"step_00000006\.pt: damaged") as error:
        checkpoints.load_latest(state)
    assert "delete it to go on from step_00000005.pt" in str(error.value)
    assert "\n" not in str(error.value)
    (folder / "step_00000006.pt").unlink()
    assert checkpoints.load_latest(state)
    assert state.step == 5


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    torch.save(Harmful(), tmp_path / "step_00000001.pt")
    with pytest.raises(ValueError, match="damaged, or no checkpoint"):
        read_checkpoint(tmp_path / "step_00000001.pt")
    assert not (tmp_path / "touched").exists()


def test_foreign_and_absent_files_are_told_apart(tmp_path: Path) -> None:
    torch.save({"ema": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of this project"):
        read_checkpoint(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("clip.size=16", r"another model: clip\.size 8 -> 16"),
        ("clip.frames=4", r"another model: clip\.frames 2 -> 4"),
        ("train.ema_decays=[0.5,0.9]", r"train\.ema_decays \[0\.9999\] -> \[0\.5, 0\.9\]"),
    ],
)
def test_a_change_that_cannot_work_is_refused(
    tmp_path: Path, root: Path, change: str, message: str
) -> None:
    save(settings(tmp_path, root=root), 5)
    checkpoints, state = make(settings(tmp_path, change, root=root))
    with pytest.raises(ValueError, match=message):
        checkpoints.load_latest(state)


def test_another_method_is_refused(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, root=root)
    folder = save(config, 5)
    content = torch.load(folder / "step_00000005.pt", weights_only=True)
    content["method_name"] = content["config"]["method_name"] = "other"
    torch.save(content, folder / "step_00000005.pt")
    checkpoints, state = make(config)
    with pytest.raises(ValueError, match="of another model: method_name other -> toy"):
        checkpoints.load_latest(state)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, root=root)
    folder = save(config, 5)
    content = torch.load(folder / "step_00000005.pt", weights_only=True)
    del content["networks"]["mean"]["pixels"]
    torch.save(content, folder / "step_00000005.pt")
    checkpoints, state = make(config)
    with pytest.raises(ValueError, match=r"does not fit these settings: .*pixels missing"):
        checkpoints.load_latest(state)


def test_changes_that_matter_are_told_and_others_not(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(settings(tmp_path, root=root), 5)
    changed = ["train.learning_rate=0.5", "train.steps=99", "data.workers=1"]
    checkpoints, state = make(settings(tmp_path, *changed, root=root))
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load_latest(state)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["settings changed since step_00000005.pt: train.learning_rate 0.01 -> 0.5"]


def test_settings_of_the_method_are_fixed_unless_it_says_otherwise(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(settings(tmp_path, root=root), 5)
    checkpoints, state = make(settings(tmp_path, "method.noise=0.7", root=root))
    assert checkpoints.load_latest(state)  # the toy's noise is adjustable
    monkeypatch.setattr(method_class("toy"), "adjustable", frozenset())
    with pytest.raises(ValueError, match=r"of another model: method\.noise 0\.1 -> 0\.7"):
        checkpoints.load_latest(state)


def test_settings_are_flattened_by_dots() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [2],
        "e": None,
    }
