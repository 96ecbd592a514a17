"""The benchmark's command: files, messages, and the tables inside a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.benchmark import BEGIN, END, main, put_between_marks


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.benchmark", *arguments],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_quick_run_writes_its_files(root: Path, tmp_path: Path) -> None:
    output, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    done = run(
        root, "--quick", "--rounds", "2", "--profile", "train,growth", "--device", "cpu",
        *("--output", str(output), "--update", str(page)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((output / "benchmark.json").read_text())
    assert found["quick"] is True
    assert torch.__version__.startswith(found["environment"]["packages"]["torch"])
    assert {"fp32", "bf16", "bandwidth"} == set(found["ceilings"])
    train, growth = found["sections"]
    names = [row["name"] for row in train["rows"]]
    assert names[0] == "reference"
    assert names[-1] == "all together"
    assert all(len(row["values"]) == 2 and min(row["values"]) > 0 for row in train["rows"])
    assert all(min(row["floors"]) > 0 for row in growth["rows"])
    text = (output / "benchmark.md").read_text()
    assert "| fused attention alone |" in text
    assert text in page.read_text()
    assert "old" not in page.read_text()
    for name in ("benchmark.png", "growth.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_all_parts_run(root: Path, tmp_path: Path) -> None:
    done = run(root, "--quick", "--device", "cpu", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    keys = [section["key"] for section in found["sections"]]
    assert keys == ["data", "train", "online", "sample", "decode", "video", "memory", "growth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update", "nowhere.md"], "--update nowhere.md: no file with the marks"),
        (["--items", "0"], "--items: at least 1, got 0"),
    ],
)
def test_wrong_choices_are_told_before_anything_is_measured(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        main(["--device", "cpu", "--output", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--output", "out", "--profile", "speed"])
    assert error.value.code == 2
    assert "'speed': choose one or more of data,train" in capsys.readouterr().err


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A\n{BEGIN}\none\n{END}\nthe rest\n")
    put_between_marks(page, "two")
    put_between_marks(page, "three")
    assert page.read_text() == f"# A\n{BEGIN}\nthree\n{END}\nthe rest\n"
