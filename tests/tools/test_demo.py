"""The demo's driver, on stages that only leave a mark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.load import load_run
from models.registry import method_config
from tools import demo
from tools.demo import Plan, Stage


def marking(folder: Path, name: str, status: int = 0) -> Stage:
    """A stage that appends a line to a file and ends with a status."""
    log = folder / "log"
    return Stage(name, ["-c", f"open({str(log)!r}, 'a').write('{name} '); exit({status})"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *stages: Stage) -> int:
    monkeypatch.setattr(demo, "stages", lambda plan: list(stages))
    return demo.main(["--folder", str(folder)])


def test_finished_stages_are_not_repeated_after_a_failure(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The second stage fails until a file is there: the command is the same both times.
    ready = tmp_path / "ready"
    text = f"import pathlib; exit(0 if pathlib.Path({str(ready)!r}).exists() else 3)"
    todo = [marking(tmp_path, "one"), Stage("two", ["-c", text]), marking(tmp_path, "three")]
    assert run(monkeypatch, folder, *todo) == 1
    assert "stopped in stage 2 of 3 (two, status 3)" in capfd.readouterr().err
    ready.touch()
    assert run(monkeypatch, folder, *todo) == 0
    assert (tmp_path / "log").read_text() == "one three "
    assert f"look at {folder / 'report.html'}" in capfd.readouterr().out


def test_times_and_commands_are_noted(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = marking(tmp_path, "one")
    run(monkeypatch, folder, stage)
    noted = json.loads((folder / "stages.json").read_text())["stages"]
    assert [(each["title"], each["command"]) for each in noted] == [("one", str(stage))]
    assert 0 <= noted[0]["seconds"] < 60


def test_other_code_or_settings_start_clean_and_spare_other_files(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, folder, marking(tmp_path, "one"))
    (folder / "train").mkdir()
    (folder / "mine.txt").write_text("keep")
    run(monkeypatch, folder, marking(tmp_path, "other"))
    assert (tmp_path / "log").read_text() == "one other "
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "stages.json"]


def test_a_folder_of_no_demo_is_left_alone(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="data that is of no demo"):
        run(monkeypatch, folder, marking(tmp_path, "one"))
    assert (folder / "data").is_dir()


def test_a_damaged_note_of_stages_starts_clean(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    (folder / "stages.json").write_text("{")
    assert run(monkeypatch, folder, marking(tmp_path, "one")) == 0
    assert (tmp_path / "log").read_text() == "one "


def test_the_stages_name_files_that_exist_and_end_with_the_report(root: Path) -> None:
    plan = Plan(
        folder=Path("runs/demo"),
        config=root / "configs/demo/endora.yaml",
        scratch=root / "configs/demo/scratch.yaml",
        clips=24,
        videos=8,
        sampling=Path("configs/demo/sample.yaml"),
    )
    todo = demo.stages(plan)
    assert "runs/demo/report.html" in todo[-1].command
    for scoring, family in zip(todo[-3:-1], demo.FAMILIES, strict=True):
        assert scoring.command[:3] == ["metrics.py", "--model_path", "runs/demo/samples"]
        assert family in scoring.command
        assert "clip_frames=8" in scoring.command  # as the model has them
        assert f"runs/demo/metrics/{family}" in todo[-1].command
    for stage in todo:
        program = stage.command[1] if stage.command[0] == "-m" else stage.command[0]
        file = program if program.endswith(".py") else f"{program.replace('.', '/')}.py"
        assert (root / file).is_file(), stage
    assert len(demo.stages(Plan(**{**vars(plan), "scratch": None}))) == len(todo) - 2


def test_another_method_has_one_run_its_own_folder_and_its_own_choices(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    made = demo.stages

    def remember(plan: Plan) -> list[Stage]:
        plans.append(plan)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "stages", remember)
    demo.main(["--config", str(root / "configs/demo/stylegan_v.yaml")])
    (plan,) = plans
    assert (tmp_path / "runs/demo-stylegan_v/stages.json").is_file()
    assert plan.sampling == Path("configs/col/sample.yaml")
    todo = made(plan)
    titles = [stage.title for stage in todo]
    assert [title for title in titles if "train" in title] == ["train from random weights"]
    assert "StyleGAN-V demo" in todo[-1].command
    assert not any("scratch" in word for stage in todo for word in stage.command)


def test_lvdm_trains_its_autoencoder_first_and_ends_with_longer_videos(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    made = demo.stages

    def remember(plan: Plan) -> list[Stage]:
        plans.append(plan)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "CONFIGS", root / "configs/demo")
    monkeypatch.setattr(demo, "stages", remember)
    demo.main(["--config", str(root / "configs/demo/lvdm.yaml")])
    (plan,) = plans
    todo = {stage.title: stage.command for stage in made(plan)}
    titles = list(todo)
    assert titles.index("train the video autoencoder") + 1 == titles.index(
        "train from random weights"
    )
    codec = next(word for word in todo["train the video autoencoder"] if word[:7] == "output=")
    assert codec.replace("output", "method.autoencoder") in todo["train from random weights"]
    assert "frames=128" in todo["sample videos of 128 frames"]
    long = todo["do they drift"][todo["do they drift"].index("--samples") + 1]
    assert f"output={long}" in todo["sample videos of 128 frames"]
    assert long in todo["write the report"]
    assert "--real" in todo["do they drift"]  # of which two windows last 32 frames
    longer = Plan(**{**vars(plan), "config": root / "configs/demo/lvdm_long.yaml"})
    (drift,) = (stage for stage in made(longer) if stage.title == "do they drift")
    assert "--real" not in drift.command  # its two windows last longer than the simulated clips
    assert load_run(plan.stage_one, [], method_config).method_name == "lvdm_autoencoder"
