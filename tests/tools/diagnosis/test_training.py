"""Rows of training from end to end: stops, resumed runs, several processes, what is left behind."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semi_fixmatch import main
from tools.diagnosis import training
from tools.diagnosis.checkpoint import read_saved
from tools.diagnosis.learner import Learner

Settings = Callable[..., list[str]]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(settings: Settings, videos: Path) -> Callable[..., list[str]]:
    def make(output: Path, *overrides: str) -> list[str]:
        common = [f"unlabelled={videos / 'pool'}", "report=false"]
        demo = ["--config", str(ROOT / "configs/downstream/demo.yaml")]
        return [*demo, *settings(output, *common, *overrides)]

    return make


class Killed(BaseException):
    """Stands for a process that ends without a word."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Learner.take

    def dying(self: Learner, views: Any) -> Any:
        if self.step == step:
            raise Killed
        return take(self, views)

    monkeypatch.setattr(Learner, "take", dying)


def result(output: Path) -> dict[str, Any]:
    return json.loads((output / "seed_3" / "result.json").read_text())


def history(output: Path) -> list[dict[str, str]]:
    with (output / "seed_3" / "history.csv").open(newline="") as file:
        timed = {"clips_per_second", "memory_gib"}
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)]


def network(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "seed_3" / "classifier.pt", weights_only=True)["classifier"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=fixmatch", "network.drop_path=0.2"],
        pytest.param(["algorithm=comatch"], marks=pytest.mark.slow),
        pytest.param(["compat=endora", "train.epochs=3"], marks=pytest.mark.slow),
    ],
    ids=["fixmatch", "comatch", "compat"],
)
def test_a_killed_row_goes_on_bit_for_bit(
    command: Callable[..., list[str]],
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(command(whole, *overrides)) == 0
    with monkeypatch.context() as patched:
        kill_at(5, patched)
        with pytest.raises(Killed):
            main(command(stopped, *overrides, "train.save_every=3"))
    saved = read_saved(stopped / "seed_3" / "checkpoint.pt")
    assert saved["learner"]["step"] == 3
    assert not (stopped / "seed_3" / "result.json").exists()
    assert main(command(stopped, *overrides, "train.save_every=3")) == 0
    one, other = network(whole), network(stopped)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert history(whole) == history(stopped)
    one_file, other_file = (place / "seed_3" / "predictions.csv" for place in (whole, stopped))
    assert one_file.read_bytes() == other_file.read_bytes()
    assert not (stopped / "seed_3" / "checkpoint.pt").exists()


def test_a_row_of_two_seeds_and_what_it_leaves(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "row"
    given = command(output, "seeds=[3,5]", "train.steps=2", "report=true")
    assert main(given) == 0
    table = capsys.readouterr().out
    for expected in ("fixmatch, pool", "all abnormal", "length", "middle frame", "AUROC"):
        assert expected in table, expected
    for name in ("table.md", "table.csv", "table.json", "plot.png", "report.html", "config.yaml"):
        assert (output / name).stat().st_size > 0, name
    for seed in (3, 5):
        folder = output / f"seed_{seed}"
        rows = (folder / "predictions.csv").read_text().splitlines()
        assert rows[0] == "video,label,probability"
        assert len(rows) == 9
        assert rows[2].startswith("v17.npy,1,0.")
        assert list((folder / "tensorboard").glob("events.*"))
    left = result(output)
    assert left["counts"] == {
        "labelled": 8,
        "labelled_abnormal": 4,
        "unlabelled": 10,
        "test": 8,
        "test_normal": 4,
        "test_abnormal": 4,
    }
    assert left["judged_step"] == left["steps"] == 2
    assert left["weights"] is None
    assert left["clips_per_second"] == pytest.approx(2 * 8 / left["seconds"])
    assert {"mask_rate", "pseudo_accuracy", "loss_unlabelled"} <= history(output)[0].keys()

    # Done seeds are kept, other settings refused, and harmless ones are not other settings.
    kill_at(0, monkeypatch)
    assert main([*given, "train.log_every=7"]) == 0
    with pytest.raises(ValueError, match=r"train\.threshold 0\.5 -> 0\.9.* another `output`"):
        main([*given, "train.threshold=0.9"])


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        kill_at(2, patched)
        with pytest.raises(Killed):
            main(command(tmp_path, "train.save_every=1"))
    with pytest.raises(ValueError, match=r"train\.steps 6 -> 9"):
        main(command(tmp_path, "train.steps=9"))
    saved = tmp_path / "seed_3" / "checkpoint.pt"
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 255
    saved.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged"):
        main(command(tmp_path))


def test_other_videos_than_before_are_refused(
    command: Callable[..., list[str]], videos: Path, tmp_path: Path
) -> None:
    pool = shutil.copytree(videos / "pool", tmp_path / "pool")
    given = command(tmp_path / "row", f"unlabelled={pool}", "train.steps=1")
    assert main(given) == 0
    (pool / "p9.npy").unlink()
    with pytest.raises(ValueError, match="the videos that it learns from"):
        main(given)


def test_compat_says_so_and_chooses_the_epoch_on_the_test_list(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["compat=endora", "train.epochs=3", "train.learning_rate=0.05"]
    assert main(command(tmp_path, *given, "train.head_learning_rate=0.05")) == 0
    assert "as published, with its flaws" in capsys.readouterr().err
    rows = history(tmp_path)
    epochs = {int(row["step"]): float(row["test_f1"]) for row in rows if row["test_f1"]}
    assert list(epochs) == [2, 4, 6]  # 8 labelled videos, 4 in a step
    left = result(tmp_path)
    assert left["scores"]["f1"] == pytest.approx(max(epochs.values()))
    assert epochs[left["judged_step"]] == max(epochs.values())


def test_a_request_to_stop_while_an_epoch_is_judged_comes_after_it(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = training.judge_videos

    def interrupted(*arguments: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(*arguments)

    monkeypatch.setattr(training, "judge_videos", interrupted)
    assert main(command(tmp_path, "compat=endora", "train.epochs=3")) == 0
    saved = read_saved(tmp_path / "seed_3" / "checkpoint.pt")
    assert saved["learner"]["step"] == 2
    assert saved["beside"]["best_step"] == 2
    assert len(saved["beside"]["best"]) == 8


def test_compat_scores_supervised_training_with_branches_left_out(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    scored = {}
    for way in ("average", "training_mode"):
        output = tmp_path / way
        given = [f"evaluate.supervised={way}", "algorithm=supervised", "network.drop_path=0.9"]
        assert main(command(output, *given, "train.ema_decay=0", "train.steps=2")) == 0
        scored[way] = (output / "seed_3" / "predictions.csv").read_text()
    # The average with a decay of 0 is the network itself: only the branches differ.
    assert scored["average"] != scored["training_mode"]


@pytest.mark.slow
def test_workers_change_nothing(command: Callable[..., list[str]], tmp_path: Path) -> None:
    for workers in (0, 2):
        output = tmp_path / str(workers)
        assert main(command(output, f"data.workers={workers}", "train.steps=3")) == 0
    assert history(tmp_path / "0") == history(tmp_path / "2")


def run(*arguments: str, processes: int = 1) -> list[str]:
    launcher = [sys.executable, "semi_fixmatch.py"]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        # A port of its own choice, so that tests may run side by side.
        launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "semi_fixmatch.py"]
    return [*launcher, *arguments]


@contextlib.contextmanager
def launched(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, which ends with the block."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_equal_one(command: Callable[..., list[str]], tmp_path: Path) -> None:
    # CoMatch shares all that FixMatch does between processes, and more.
    # SGD, for Adam makes much of rounding where a gradient is nearly 0.
    given = ["algorithm=comatch", "network.drop_path=0", "train.optimizer=sgd"]
    given += ["train.learning_rate=0.05", "train.head_learning_rate=0.05", "train.steps=4"]
    given += ["comatch.memory_batches=2"]
    assert main(command(tmp_path / "one", *given)) == 0
    with launched(*run(*command(tmp_path / "two", *given), processes=2)) as process:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    one, two = network(tmp_path / "one"), network(tmp_path / "two")
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    for row, other in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        values = [{k: float(v) for k, v in each.items() if v} for each in (row, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_stops_after_a_step_and_the_row_goes_on(
    command: Callable[..., list[str]], processes: int, tmp_path: Path
) -> None:
    given = command(tmp_path / "row", "train.steps=100000", "train.save_every=100000")
    with launched(*run(*given, processes=processes)) as process:
        deadline = time.monotonic() + 600
        table = tmp_path / "row" / "seed_3" / "history.csv"
        while not table.is_file() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert table.is_file(), "no step within ten minutes"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=600)
    assert processes > 1 or process.returncode == 0, errors
    assert "remaining" in errors
    assert "stopped as asked; run the same command to go on" in errors
    saved = read_saved(tmp_path / "row" / "seed_3" / "checkpoint.pt")
    assert saved["learner"]["step"] >= 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.test_list=missing.csv", r"missing\.csv: no such list of labelled videos"),
        ("network.weights=missing.pth", r"network\.weights: missing\.pth: no such file"),
        ("network.size=huge", r"network\.size: 'huge' is not one of"),
        ("data.size=20", "frames of 20 pixels are not filled by patches of 8"),
    ],
)
def test_settings_that_cannot_be_trained(
    command: Callable[..., list[str]], override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        main(command(tmp_path / "row", override))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_user_error_is_one_line(command: Callable[..., list[str]], tmp_path: Path) -> None:
    done = subprocess.run(
        run(*command(tmp_path / "row", "data.test_list=missing.csv")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "missing.csv: no such list of labelled videos" in line


def test_weights_of_another_width_are_refused(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert main(command(tmp_path / "row", "train.steps=1")) == 0
    state = {
        name.removeprefix("spatial."): tensor[..., :32] if tensor.ndim > 1 else tensor[:32]
        for name, tensor in network(tmp_path / "row").items()
        if name.startswith("spatial.")
    }
    torch.save(state, tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"narrow\.pth: .* is \(.*\), the network has \(") as error:
        main(command(tmp_path / "other", f"network.weights={tmp_path / 'narrow.pth'}"))
    assert "\n" not in str(error.value)
