"""train.py as users meet it: what it leaves, how it stops, and what it says to mistakes."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from PIL import Image

import train
from configs.errors import run_command
from configs.load import load_run
from models.registry import method_config
from tools.training.checkpoints import checkpoint_files, read_checkpoint
from tools.training.state import TrainState

TOY = Path(__file__).resolve().parent.parent / "configs" / "demo" / "toy.yaml"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 20 grey frames, one folder each."""
    folder = tmp_path_factory.mktemp("frames")
    for video in range(3):
        (folder / f"{video:05d}").mkdir()
        for index in range(20):
            pixels = numpy.full((32, 32, 3), 10 * index + video, numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{video:05d}" / f"{index:06d}.png")
    return folder


@pytest.fixture
def arguments(frames: Path, tmp_path: Path) -> list[str]:
    """A command line of four quick steps into tmp_path/run."""
    return [
        *["--config", str(TOY), f"data.folder={frames}", "data.layout=frames"],
        *["clip.frames=4", f"output={tmp_path / 'run'}", "train.steps=4", "train.log_every=2"],
    ]


def status_of(arguments: list[str]) -> int | str | None:
    """The exit status of the command, run in this process."""
    with pytest.raises(SystemExit) as stop:
        run_command(partial(train.main, arguments))
    return stop.value.code


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says to a mistake."""
    capsys.readouterr()
    assert status_of(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_a_run_folder_holds_what_a_reader_needs(arguments: list[str], tmp_path: Path) -> None:
    assert status_of([*arguments, "train.preview_every=2"]) == 0
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {
        *["checkpoints", "config.yaml", "environment.json", "log.txt", "losses.csv"],
        *["previews", "tensorboard"],
    }
    assert [path.name for path in sorted((run / "previews").iterdir())] == [
        "step_00000002.png",
        "step_00000004.png",
    ]


def test_the_log_counts_thousands_of_frames(arguments: list[str], tmp_path: Path) -> None:
    assert status_of([*arguments, "train.log_every=2", "train.batch_size=3"]) == 0
    with (tmp_path / "run" / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    frames = load_run(tmp_path / "run" / "config.yaml", [], method_config).clip.frames
    assert [float(row["kimg"]) for row in rows] == [
        pytest.approx(int(row["step"]) * 3 * frames / 1000) for row in rows
    ]
    assert rows


def test_the_settings_left_behind_start_the_same_run(arguments: list[str], tmp_path: Path) -> None:
    assert status_of(arguments) == 0
    left = tmp_path / "run" / "config.yaml"
    assert status_of(["--config", str(left), f"output={tmp_path / 'again'}"]) == 0
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoints" / "step_00000004.pt")
        for name in ("run", "again")
    )
    assert torch.equal(one["networks"]["mean"]["pixels"], other["networks"]["mean"]["pixels"])


def test_a_finished_run_is_left_as_it_is(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == 0
    file = tmp_path / "run" / "checkpoints" / "step_00000004.pt"
    before = file.stat().st_mtime_ns
    assert status_of(arguments) == 0
    assert "done: 4 steps" in capsys.readouterr().err
    assert file.stat().st_mtime_ns == before


def test_a_dry_run_prints_settings_and_sizes_and_leaves_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["--dry-run", *arguments]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["train"]["steps"] == 4  # the sizes are comments
    assert "# mean: 12,288 parameters" in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_weights_but_sizes_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endora = ["--dry-run", "--config", str(TOY.parent / "endora.yaml"), "method.codec.name=tiny"]
    assert status_of([*endora, f"method.codec.weights={tmp_path / 'absent.safetensors'}"]) == 0
    text = capsys.readouterr().out
    assert "# networks not counted" in text
    assert "absent.safetensors" in text
    pixels = ["method.codec.name=pixels", "method.codec.weights=null"]
    line = refused([*endora, *pixels, "clip.size=60"], capsys)
    assert "a 60x60 frame cannot be divided into 8x8 cells" in line


@pytest.mark.parametrize(
    ("stage", "missing", "sizes"),
    [
        (
            "lvdm_autoencoder",
            "VGG-16",
            ["autoencoder: 19,446,759", "discriminator: 2,765,633"],
        ),
        ("lvdm", "stage 1", ["denoiser: 548,904,580"]),
        ("lvdm_long", "stage 1", ["prediction: 549,163,908", "interpolation: 549,181,060"]),
    ],
)
def test_a_dry_run_counts_networks_before_the_files_they_train_with_are_there(
    stage: str,
    missing: str,
    sizes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    config = TOY.parents[1] / "col" / f"{stage}.yaml"
    monkeypatch.chdir(tmp_path)  # where no stage 1 was trained
    assert status_of(["--dry-run", "--config", str(config)]) == 0
    comments = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert comments[0].startswith("# a run would stop: method.")
    assert missing in comments[0]
    assert comments[1:] == [f"# {each} parameters" for each in sizes]


def test_a_new_run_may_start_from_exported_weights(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.training.weights import read_weights, write_weights

    assert status_of(arguments) == 0
    weights = read_weights(tmp_path / "run")
    weights.networks["mean"]["pixels"].fill_(0.25)
    write_weights(tmp_path / "start.safetensors", weights)
    second = [*arguments, f"output={tmp_path / 'second'}", "train.learning_rate=1e-12"]
    second.append(f"train.initial_weights={tmp_path / 'start.safetensors'}")
    assert status_of(second) == 0
    saved = read_checkpoint(tmp_path / "second" / "checkpoints" / "step_00000004.pt")
    expected = torch.full((1, 4, 3, 32, 32), 0.25)
    torch.testing.assert_close(saved["networks"]["mean"]["pixels"], expected)
    torch.testing.assert_close(saved["ema"][0]["mean"]["pixels"], expected)
    capsys.readouterr()
    assert status_of([*second, "train.steps=5"]) == 0
    assert "train.initial_weights is left aside" in capsys.readouterr().err


MISTAKES = {
    "an unknown key": (["train.lerning_rate=1"], "did you mean train.learning_rate?"),
    "a wrong type": (["train.steps=many"], "train.steps"),
    "no key=value": (["steps"], "is not of the form key=value"),
    "a wrong choice": (["train.precision=fp8"], "train.precision"),
    "an impossible size": (["clip.size=4"], "clip.size: at least 8 pixels, got 4"),
    "an unknown method": (["method_name=toi"], "did you mean toy?"),
    "no such data": (["data.folder=/nowhere"], "/nowhere"),
    "no such weights": (["train.initial_weights=/nowhere.safetensors"], "/nowhere.safetensors"),
    "a run folder that is a file": ([f"output={TOY}"], "cannot write"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    overrides, message = MISTAKES[mistake]
    assert message in refused([*arguments, *overrides], capsys)


def test_an_empty_list_and_a_missing_config_are_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("")
    assert "list.txt" in refused([*arguments, f"data.list={tmp_path / 'list.txt'}"], capsys)
    absent = str(tmp_path / "absent.yaml")
    assert "no such settings file" in refused(["--config", absent], capsys)


def test_trouble_with_checkpoints_is_one_line_and_loses_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of([*arguments, "train.save_every=2"]) == 0
    newest = tmp_path / "run" / "checkpoints" / "step_00000004.pt"
    line = refused([*arguments, "clip.frames=8", "train.steps=6"], capsys)
    assert "is of another model: clip.frames 4 -> 8" in line
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    line = refused([*arguments, "train.steps=6"], capsys)
    assert "step_00000004.pt: damaged" in line
    assert "go on from step_00000002.pt" in line
    newest.unlink()
    assert status_of([*arguments, "train.steps=6"]) == 0


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from models.methods.toy import Toy

    original = Toy.phases
    monkeypatch.setattr(
        Toy,
        "phases",
        lambda self, step: original(self, step) if step < 3 else [explosion(self)],
    )
    line = refused([*arguments, "train.save_every=2"], capsys)
    assert "step 3: the gradient norm of 'mean'" in line
    assert "lower train.learning_rate" in line
    assert sorted(checkpoint_files(tmp_path / "run" / "checkpoints")) == [2]
    assert line.removeprefix("error: ") in (tmp_path / "run" / "log.txt").read_text()
    monkeypatch.undo()
    assert status_of([*arguments, "train.save_every=2"]) == 0


def test_a_bug_leaves_no_data_worker_to_wait_for(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers ignore SIGTERM, so a process that ends with some would wait for them for ever."""

    def fails(*_: object) -> None:
        raise TypeError("a bug")

    before = set(multiprocessing.active_children())
    monkeypatch.setattr(TrainState, "take", fails)
    with pytest.raises(TypeError) as _remembered:
        train.main([*arguments, "data.workers=1"])
    assert set(multiprocessing.active_children()) <= before


def explosion(method: object) -> object:
    from models.interface import Loss, Phase

    return Phase("mean", lambda networks, batch: Loss(networks["mean"]().sum() * float("inf")))


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 KB: less than a checkpoint, more than the other files."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_keeps_earlier_checkpoints(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    assert status_of([*arguments, "train.steps=2"]) == 0
    request.getfixturevalue("full_disk")
    line = refused(arguments, capsys)
    assert "step_00000004.pt: File too large; free some space" in line
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step_00000002.pt"]
    assert read_checkpoint(folder / "step_00000002.pt")["step"] == 2


@pytest.mark.slow
def test_the_real_command_stops_on_sigterm_and_goes_on(
    arguments: list[str], tmp_path: Path
) -> None:
    """As a scheduler does it: the signal goes to every process of the job, data workers too."""
    command = [sys.executable, "train.py", *arguments, "data.workers=2", "train.steps=1000000"]
    # A line per step would be long; a save per step would hide that the stop saves.
    command += ["train.log_every=50", "train.save_every=1000000", "train.preview_every=0"]
    with subprocess.Popen(
        command, cwd=TOY.parents[2], start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(tmp_path / "run" / "losses.csv")
            os.killpg(process.pid, signal.SIGTERM)
            errors = process.communicate(timeout=60)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    (step,) = checkpoint_files(tmp_path / "run" / "checkpoints")
    assert f"stopped at step {step} as asked" in errors
    assert step > 0
    more = [*arguments, f"train.steps={step + 2}", "train.preview_every=0"]
    assert status_of(more) == 0
    straight = [*more, f"output={tmp_path / 'straight'}"]
    assert status_of(straight) == 0
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoints" / f"step_{step + 2:08d}.pt")
        for name in ("run", "straight")
    )
    assert torch.equal(one["networks"]["mean"]["pixels"], other["networks"]["mean"]["pixels"])


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} within 90 seconds"
        time.sleep(0.05)
