"""The report of a comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools.diagnosis.baselines import fixed_rows
from tools.diagnosis.report import findings, write_report
from tools.diagnosis.rows import Row
from tools.diagnosis.summary import summarise
from tools.diagnosis.tables import main_table, to_markdown

LABELS = np.repeat([1, 0], [60, 20])
NAMES = tuple(f"{number}.mp4" for number in range(80))


def trained(name: str, method: str, sharpness: float, **result: Any) -> Row:
    """Answers whose quality grows with `sharpness`."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(3, 80))
    probabilities = 1 / (1 + np.exp(-(noise + sharpness * (LABELS - 0.5))))
    counts = {"labelled": 40, "unlabelled": 0 if method == "supervised" else 200}
    shared = {"method": method, "counts": counts, "seconds": 10.0, "clips_per_second": 20.0}
    history: Mapping[str, list[tuple[float, float]]] = {}
    if method != "supervised":
        history = {"mask_rate": [(10, 0.25), (20, 0.5)], "pseudo_accuracy": [(20, 0.75)]}
    return Row(
        name,
        (0, 1, 2),
        NAMES,
        LABELS,
        probabilities,
        results=({**shared, "weights": None, **result},) * 3,
        histories=(history,) * 3,
    )


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    lengths = np.arange(80)
    return [
        trained("supervised", "supervised", 1.0),
        trained("+ real", "fixmatch", 4.0),
        trained("+ noise", "fixmatch", 1.0),
        trained("+ harm", "fixmatch", -2.0),
        *fixed_rows(NAMES, LABELS, lengths, LABELS, lengths),
    ]


def test_all_files_are_written_and_carry_every_row(tmp_path: Path, rows: list[Row]) -> None:
    write_report(tmp_path, rows, title="A <title>", command="python x --y", further=["Told."])
    markdown = (tmp_path / "table.md").read_text()
    page = (tmp_path / "report.html").read_text()
    table = json.loads((tmp_path / "table.json").read_text())
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["name"] for row in table["rows"]] == [row.name for row in rows]
    assert {line["row"] for line in lines} == {row.name for row in rows}
    for row in rows:
        assert row.name in markdown
        assert row.name in page
    assert "A &lt;title&gt;" in page
    assert "python x --y" in page
    for text in (markdown, page):
        assert "Told." in text
        assert "80 test videos, 60 of them abnormal." in text
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000


def test_the_trivial_rules_stand_in_the_table_with_their_numbers(rows: list[Row]) -> None:
    lines = {line[0]: line for line in main_table(summarise(rows))}
    assert lines["row"][:5] == ["row", "labelled", "unlabelled", "seeds", "F1"]
    assert lines["supervised"][1:4] == ["40", "0", "3"]
    assert lines["+ real"][1:4] == ["40", "200", "3"]
    assert lines["all abnormal"][4] == "85.7"
    assert "*all abnormal*" in to_markdown("x", summarise(rows))


def test_what_the_rows_say_against_supervised_training(rows: list[Row]) -> None:
    told = findings(summarise(rows))
    assert len(told) == 3
    assert told[0].startswith("+ real, against supervised training: F1 +")
    assert told[0].count("(better)") == 2
    assert told[1] == (
        "+ noise, against supervised training: F1 +0.0 [+0.0, +0.0] points (no difference shown), "
        "AUROC +0.0 [+0.0, +0.0] points (no difference shown)."
    )
    assert told[2].endswith("(worse).")


def test_differences_are_those_of_the_means(rows: list[Row]) -> None:
    found = {each.row.name: each for each in summarise(rows)}
    compared = found["+ real"].differences
    assert compared is not None
    for name, one in compared.items():
        means = [found[row].values[name].mean for row in ("+ real", "supervised")]
        assert one.mean == pytest.approx(means[0] - means[1])
    assert found["supervised"].differences is None
    assert found["all abnormal"].differences is None


def test_pseudo_labels_at_the_end(rows: list[Row]) -> None:
    pseudo = summarise(rows)[1].pseudo
    assert pseudo == {"mask_rate": 0.375, "pseudo_accuracy": 0.75}
    assert summarise(rows)[0].pseudo == {}


def test_weights_are_told_by_their_checksum() -> None:
    weights = {"file": "x.pth", "checksum": "0123456789abcdef"}
    row = trained("supervised", "supervised", 1.0, weights=weights)
    assert "sha256 0123456789ab" in to_markdown("x", summarise([row]))
    assert "random" in to_markdown("x", summarise([trained("a", "supervised", 1.0)]))


def test_choosing_on_the_test_videos_is_told() -> None:
    settings = {"evaluate": {"choose": "best_on_test"}}
    row = trained("published", "fixmatch", 1.0, settings=settings)
    ours = trained("ours", "fixmatch", 1.0)
    text = to_markdown("x", summarise([ours, row]))
    assert "published: the best epoch was chosen on the test videos" in text
    assert "standard deviation over seeds" in text
    assert "nothing was chosen" not in text
    assert "nothing was chosen" in to_markdown("x", summarise([ours]))


def test_rows_of_other_videos_are_refused(rows: list[Row]) -> None:
    other = replace(rows[1], videos=NAMES[::-1])
    with pytest.raises(ValueError, match=r"\+ real judged other videos than supervised"):
        summarise([rows[0], other])
    with pytest.raises(ValueError, match="at least one row"):
        summarise([])
