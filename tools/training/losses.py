"""losses.csv: one row per logged step, for plots and reports."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tools.training.files import PARTIAL, naming


class LossTable:
    """A CSV file that is appended to, and that grows a column when a new value turns up.

    Columns: step, then every value ever written; a cell is empty where a step lacks the value.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Open a table and drop its rows after `step`: a run going on writes them again."""
        self.path = path
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, str]] = []
        if path.is_file():
            self._read(step)
            self._rewrite()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the row of a step."""
        row = {"step": str(step), **{name: f"{value:.8g}" for name, value in values.items()}}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new or not self.path.is_file():
            self.columns += new
            self._rewrite()
            return
        with naming(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _read(self, step: int) -> None:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self.columns = list(reader.fieldnames or ["step"])
            # A killed process may leave half a row: it has no number or too few cells.
            self.rows = [
                row
                for row in reader
                if (row.get("step") or "").isdecimal()
                and None not in row.values()
                and int(row["step"]) <= step
            ]

    def _rewrite(self) -> None:
        partial = self.path.with_name(self.path.name + PARTIAL)
        with naming(self.path):
            with partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(self.rows)
            partial.replace(self.path)
