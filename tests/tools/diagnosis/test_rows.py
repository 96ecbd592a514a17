"""Reading what a row left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.diagnosis.rows import read_row


def leave_seed(folder: Path, seed: int, table: str, finished: bool = True) -> Path:
    place = folder / f"seed_{seed}"
    place.mkdir(parents=True)
    (place / "predictions.csv").write_text("video,label,probability\n" + table)
    (place / "history.csv").write_text(
        "step,loss,pseudo_accuracy\n10,0.7,\n20,0.5,0.75\n30,0.4,1\n"
    )
    if finished:
        (place / "result.json").write_text(json.dumps({"seed": seed, "seconds": 2.5}))
    return place


def test_finished_seeds_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    leave_seed(tmp_path, 10, "a,0,0.75\nb,1,1\n")
    leave_seed(tmp_path, 2, "a,0,0.25\nb,1,0.5\n")
    leave_seed(tmp_path, 3, "a,0,0.25\nb,1,0.5\n", finished=False)
    (tmp_path / "seed_x").mkdir()
    row = read_row(tmp_path, "generated")
    assert row.name == "generated"
    assert row.seeds == (2, 10)
    assert row.videos == ("a", "b")
    assert np.array_equal(row.labels, [0, 1])
    assert np.array_equal(row.probabilities, [[0.25, 0.5], [0.75, 1]])
    assert row.results[1]["seed"] == 10
    assert row.histories[0]["pseudo_accuracy"] == [(20, 0.75), (30, 1)]
    assert not row.trivial
    assert read_row(tmp_path, seeds=[0, 10]).seeds == (10,)


def test_a_folder_without_finished_seeds(tmp_path: Path) -> None:
    leave_seed(tmp_path, 0, "a,0,0.25\nb,1,0.5\n", finished=False)
    with pytest.raises(FileNotFoundError, match="no finished seed"):
        read_row(tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished seed"):
        read_row(tmp_path / "missing")


def test_seeds_that_judged_other_videos(tmp_path: Path) -> None:
    leave_seed(tmp_path, 0, "a,0,0.25\nb,1,0.5\n")
    leave_seed(tmp_path, 1, "a,0,0.25\nc,1,0.5\n")
    with pytest.raises(ValueError, match="seed 1 judged other videos than seed 0"):
        read_row(tmp_path)


@pytest.mark.parametrize("table", ["a,0,x\nb,1,0.5\n", "a,0\n", "a,0,0.5\n", "a,0,2\nb,1,0.5\n"])
def test_damaged_predictions_name_their_file(tmp_path: Path, table: str) -> None:
    place = leave_seed(tmp_path, 0, table)
    with pytest.raises(ValueError, match=str(place / "predictions.csv")):
        read_row(tmp_path)


def test_a_damaged_result_names_its_file(tmp_path: Path) -> None:
    place = leave_seed(tmp_path, 0, "a,0,0.25\nb,1,0.5\n")
    (place / "result.json").write_text("{")
    with pytest.raises(ValueError, match="delete its folder"):
        read_row(tmp_path)
