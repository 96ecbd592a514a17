from __future__ import annotations

import csv
import errno
import io
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
import yaml

from configs.load import load_run
from configs.schema import RunConfig
from models.registry import method_config
from tools.training.logging import Clock, RunLog, duration, values_that_fit
from tools.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def config(tmp_path: Path, root: Path) -> RunConfig:
    overrides = [f"output={tmp_path / 'run'}", "train.steps=6", "train.log_every=2"]
    return load_run(root / "configs/demo/toy.yaml", overrides, method_config)


def log_steps(config: RunConfig, first: int, last: int) -> None:
    with RunLog(config, CPU) as log:
        log.begin(first)
        for step in range(first + 1, last + 1):
            log.add({"error": torch.tensor(float(step))})
            log.write_if_due(step, 4 * step, {"mean": 0.1})


def table(config: RunConfig) -> list[dict[str, str]]:
    with (Path(config.output) / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def board(config: RunConfig) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("error")}


def test_a_bar_shows_the_values_it_has_room_for() -> None:
    values = {"loss/mean": 9.0, "error": 0.12345, "prior": 2.0, "kimg": 1234.0}
    assert values_that_fit(values, 0) == {}
    assert values_that_fit(values, 23) == {"error": "0.123", "prior": "2"}
    assert list(values_that_fit(values, 80)) == ["error", "prior", "kimg"]


def test_the_folder_tells_settings_and_environment(config: RunConfig) -> None:
    log_steps(config, 0, 2)
    folder = Path(config.output)
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["log_every"] == 2
    environment = json.loads((folder / "environment.json").read_text())
    assert str(torch.__version__).startswith(environment["packages"]["torch"])
    assert environment["world_size"] == 1
    assert {"git_commit", "command", "device"} <= environment.keys()


def test_lines_rows_and_curves_hold_means_since_the_last(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    log_steps(config, 0, 6)
    assert [(row["step"], row["error"]) for row in table(config)] == [
        ("2", "1.5"),
        ("4", "3.5"),
        ("6", "5.5"),
    ]
    assert {"learning_rate/mean", "clips_per_second", "memory_gib"} <= table(config)[0].keys()
    assert board(config) == {2: 1.5, 4: 3.5, 6: 5.5}
    text = (Path(config.output) / "log.txt").read_text()
    assert "step 4/6  error 3.5" in text
    assert "remaining 0:00:00" in text
    assert "step 4/6  error 3.5" in capsys.readouterr().err


def test_going_on_replaces_what_was_logged_after_the_checkpoint(config: RunConfig) -> None:
    log_steps(config, 0, 6)
    log_steps(config, 2, 4)
    assert [row["step"] for row in table(config)] == ["2", "4"]
    assert board(config) == {2: 1.5, 4: 3.5}
    assert (Path(config.output) / "log.txt").read_text().count("step 6/6") == 1  # appended to


def test_an_error_is_in_the_file_and_left_to_the_command_on_the_terminal(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="broken"), RunLog(config, CPU):
        raise ValueError("broken\nclip")
    text = (Path(config.output) / "log.txt").read_text()
    assert "stopped: broken clip" in text
    assert "Traceback" not in text
    assert "broken" not in capsys.readouterr().err
    with pytest.raises(KeyError), RunLog(config, CPU):
        raise KeyError("a bug")
    assert "Traceback" in (Path(config.output) / "log.txt").read_text()


def test_loggers_are_given_back(config: RunConfig) -> None:
    before = list(logging.getLogger("tools").handlers)
    with RunLog(config, CPU):
        assert len(logging.getLogger("tools").handlers) > len(before)
    assert logging.getLogger("tools").handlers == before


def test_other_ranks_write_nothing(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(config, Runtime(torch.device("cpu"), rank=1, world_size=2)) as log:
        log.begin(0)
        log.add({"error": torch.tensor(1.0)})
        log.write_if_due(2, 0, {})
        logging.getLogger("tools").info("said by all")
        logging.getLogger("tools").warning("said by one")
    assert not Path(config.output).exists()
    assert "said by one" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_file_gets_lines(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log_steps(config, 0, 6)
    assert "6/6" in terminal.getvalue()
    assert "step 4/6" not in terminal.getvalue()
    assert "step 4/6" in (Path(config.output) / "log.txt").read_text()


def test_a_full_disk_stops_the_run_with_the_name_of_the_file(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog(config, CPU):
        monkeypatch.setattr(logging.StreamHandler, "flush", fail)
        with pytest.raises(OSError, match=r"cannot write .*log\.txt: No space left .*free some"):
            logging.getLogger("tools").info("one more line")
        monkeypatch.undo()


def test_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 10.0, 12.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()  # 0
    clock.pause()  # 2
    clock.resume()  # 10
    assert clock.seconds_per_step(2) == 2.0  # 12: four seconds of work in two steps


def test_durations_are_hours_minutes_seconds() -> None:
    assert duration(3665.2) == "1:01:05"
