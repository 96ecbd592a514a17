from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tools.training.losses import LossTable


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    table = LossTable(tmp_path / "losses.csv", 0)
    table.write(10, {"mse": 0.5})
    assert rows(tmp_path / "losses.csv") == [{"step": "10", "mse": "0.5"}]
    table.write(20, {"mse": 0.25})
    assert [row["step"] for row in rows(tmp_path / "losses.csv")] == ["10", "20"]


def test_a_new_value_becomes_a_column(tmp_path: Path) -> None:
    table = LossTable(tmp_path / "losses.csv", 0)
    table.write(1, {"a": 1})
    table.write(2, {"a": 2, "penalty": 3})
    table.write(3, {"a": 4})
    assert [row["penalty"] for row in rows(tmp_path / "losses.csv")] == ["", "3", ""]


def test_going_on_drops_later_and_half_rows(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("step,a,b\n10,1,2\n20,1,2\n30,1,2\n4")
    table = LossTable(path, 20)
    assert [row["step"] for row in rows(path)] == ["10", "20"]
    table.write(30, {"a": 5, "b": 6})
    assert rows(path)[-1] == {"step": "30", "a": "5", "b": "6"}
    assert len(rows(path)) == 3


def test_a_row_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("step,a,b\n10,1,2\n20,1")
    LossTable(path, 50)
    assert [row["step"] for row in rows(path)] == ["10"]


def test_a_new_run_starts_an_old_table_anew(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("step,a\n10,1\n")
    LossTable(path, 0)
    assert rows(path) == []


def test_a_full_disk_names_the_table(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "losses.csv"
    table = LossTable(path, 0)
    with pytest.raises(OSError, match=r"cannot write .*losses\.csv: .*free some space"):
        table.write(1, {f"value_{k}": 0 for k in range(10_000)})  # the table written anew
    table = LossTable(path, 0)
    table.write(1, {"a": 1})
    os.truncate(path, 2**16)
    with pytest.raises(OSError, match=r"cannot write .*losses\.csv: .*free some space"):
        table.write(2, {"a": 2})  # a row appended
