from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tools.reporting.chart import HEIGHT, WIDTH, line_chart, read_losses

SVG = "{http://www.w3.org/2000/svg}"


def corners(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", line.get("points", ""))]
        for line in lines
    ]


def test_a_falling_line_falls_within_the_drawing() -> None:
    svg = line_chart({"a": [(0, 3.0), (10, 2.0), (20, 1.0)]}, "loss")
    [line] = corners(svg)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted(y for _, y in line)  # downwards is larger in SVG
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)


def test_lines_share_one_scale() -> None:
    first, second = corners(line_chart({"a": [(0, 1), (9, 5)], "b": [(0, 5), (9, 1)]}, "loss"))
    assert first[0][1] == second[1][1]
    assert first[1][1] == second[0][1]


def test_marks_are_round_and_enclose_the_values() -> None:
    svg = line_chart({"a": [(0, 0.213), (50, 0.871)]}, "loss")
    texts = [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert texts[:5] == ["0.2", "0.4", "0.6", "0.8", "1"]


def test_flat_single_and_infinite_values_are_drawn() -> None:
    assert corners(line_chart({"a": [(0, 2.0), (5, 2.0)]}, "flat"))
    assert "<circle" in line_chart({"a": [(5, 2.0)]}, "single")
    [line] = corners(line_chart({"a": [(0, 1.0), (1, math.inf), (2, 3.0)]}, "holes"))
    assert len(line) == 2


def test_a_chart_without_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty: a chart needs finite values"):
        line_chart({"a": [(0, math.nan)]}, "empty")


def test_names_are_text_and_not_markup() -> None:
    assert "<b>" not in line_chart({"<b>": [(0, 1), (1, 2)]}, "<b>")


def test_losses_are_read_by_column_and_empty_cells_left_out(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("step,loss,prior\n10,0.5,\n20,0.25,0.1\n")
    assert read_losses(path) == {"loss": [(10, 0.5), (20, 0.25)], "prior": [(20, 0.1)]}


def test_what_is_no_table_of_losses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is this a run folder"):
        read_losses(tmp_path / "losses.csv")
    (tmp_path / "losses.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column `step`"):
        read_losses(tmp_path / "losses.csv")
