"""What a benchmark has found: rows of measured values, sections of rows, and their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tools.benchmarking.machine import Ceilings
from tools.benchmarking.networks import Model
from tools.benchmarking.timing import Spread, ratios


@dataclass(frozen=True)
class Setup:
    """What all parts of a benchmark share."""

    device: torch.device
    model: Model
    ceilings: Ceilings
    folder: Path  # for scratch files
    quick: bool = False
    rounds: int = 7
    slow_rounds: int = 3  # of what takes many seconds
    items: int = 1  # in a training step, and videos sampled together
    sampled_steps: int = 0  # of 250 that are run, the rest by proportion; 0: all of them

    @property
    def bf16(self) -> bool:
        """Whether the project's own variants run in bf16 here."""
        return self.ceilings.bf16_pays


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        values       one for every round
        ratios       the baseline's value over this one, round by round; empty without a baseline
        predicted    the ratio that arithmetic expects, from counts and ceilings alone
        utilisation  model operations a second over the ceiling of the variant's precision
        floors       least seconds for the operations, and for the bytes
    """

    name: str
    values: Sequence[float]
    ratios: Sequence[float] = ()
    predicted: float | None = None
    utilisation: float | None = None
    floors: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A table. `unit` is that of the values, `better` what a ratio above 1 means."""

    key: str
    title: str
    unit: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    better: str = "faster"
    facts: Mapping[str, object] = field(default_factory=dict)  # for the JSON file


def compared(
    seconds: Mapping[str, Sequence[float]],
    baseline: str,
    *,
    predicted: Mapping[str, float] | None = None,
    utilisation: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of variants that took turns, each compared with the baseline of its round."""
    return [
        Row(
            name,
            values,
            ratios(seconds[baseline], values),
            (predicted or {}).get(name),
            (utilisation or {}).get(name),
            note=(notes or {}).get(name, ""),
        )
        for name, values in seconds.items()
    ]


def section_text(section: Section) -> str:
    """A section as Markdown: heading, table, notes."""
    rows = section.rows
    columns = ["variant", section.unit, "quartiles"]
    with_ratio = any(row.ratios for row in rows)
    if with_ratio:
        columns += [f"times {section.better}", "quartiles"]
    optional = {
        "predicted": [_times(row.predicted) for row in rows],
        "utilisation": [_percent(row.utilisation) for row in rows],
        "floor by operations": [_number(row.floors[0]) if row.floors else "" for row in rows],
        "floor by bytes": [_number(row.floors[1]) if row.floors else "" for row in rows],
        "note": [row.note for row in rows],
    }
    kept = {name: cells for name, cells in optional.items() if any(cells)}
    lines = [
        "| " + " | ".join([*columns, *kept]) + " |",
        "|---" * (len(columns) + len(kept)) + "|",
    ]
    for number, row in enumerate(rows):
        cells = [row.name, *_spread(row.values, _number)]
        if with_ratio:
            cells += _spread(row.ratios, _times) if row.ratios else ["", ""]
        cells += [column[number] for column in kept.values()]
        lines.append("| " + " | ".join(cells) + " |")
    notes = "".join(f"\n{note}\n" for note in section.notes)
    return f"### {section.title}\n\n" + "\n".join(lines) + "\n" + notes


def _spread(values: Sequence[float], text: object) -> list[str]:
    spread = Spread.of(values)
    write = _times if text is _times else _number
    if len(values) == 1:
        return [write(spread.median), "one value"]
    return [write(spread.median), f"{write(spread.low)} to {write(spread.high)}"]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _times(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
