"""Turns, medians and ratios."""

from __future__ import annotations

import torch

from tools.benchmarking.machine import Ceilings
from tools.benchmarking.tables import Row, Section, compared, section_text
from tools.benchmarking.timing import Spread, alternate, ratios

CPU = torch.device("cpu")


def test_variants_take_turns_and_every_second_round_runs_backwards() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = alternate(works, CPU, rounds=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(value >= 0 for each in seconds.values() for value in each)


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


def test_a_spread_is_quartiles_around_the_median() -> None:
    assert Spread.of([5.0]) == Spread(5, 5, 5)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(2, 3, 4)


def test_bf16_pays_only_where_its_products_are_clearly_faster() -> None:
    assert Ceilings(1e9, 2e9, 1).bf16_pays
    assert not Ceilings(1e9, 1.1e9, 1).bf16_pays


def test_a_table_shows_the_columns_that_are_known() -> None:
    rows = compared({"slow": [2.0, 4.0], "fast": [1.0, 1.0]}, "slow", predicted={"fast": 2.5})
    text = section_text(Section("x", "Title", "s per item", rows, ["A note."]))
    assert "### Title" in text
    assert "| variant | s per item | quartiles | times faster | quartiles | predicted |" in text
    assert "| fast | 1 | 1 to 1 | 3.00x | 2.50x to 3.50x | 2.50x |" in text
    assert "utilisation" not in text
    assert text.endswith("\nA note.\n")


def test_a_table_without_a_baseline_has_no_ratios() -> None:
    row = Row("16 frames", [0.5], floors=(0.1, 0.02))
    text = section_text(Section("growth", "Growth", "s per step", [row]))
    assert "times" not in text
    assert "| 16 frames | 0.5 | one value | 0.1 | 0.02 |" in text
