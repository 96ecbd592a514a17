"""Scores of samples on a report page: the files that metrics.py wrote, with all their caveats."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.metrics.result import Caution
from tools.metrics.tables import with_deviation
from tools.reporting import page

TOO_FEW = "!"  # beside a value from too few videos
NOTE = (
    "What metrics.py finds when it compares the samples with the training clips. The floor "
    "is the same score of training clips against other training clips. Untrained features see "
    "colour, contrast and motion and hardly any shape; EfficientNet's come from photographs and "
    "see shape."
)


@dataclass(frozen=True)
class Scores:
    """A folder that metrics.py wrote."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def caveats(self) -> list[str]:
        """What must stand beside the scores."""
        return [str(caveat) for caveat in self.content["caveats"]]

    @property
    def sheets(self) -> list[tuple[str, Path, str]]:
        """Name of the set, picture of its pairs closest to training clips, and the verdict."""
        found = []
        for each in self.content["sets"]:
            memorisation = each.get("memorisation")
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", each["name"])  # as metrics.py names its files
            path = self.folder / f"memorisation-{name}.png"
            if memorisation and path.is_file():
                found.append((str(each["name"]), path, str(memorisation["verdict"])))
        return found


def read_scores(folder: Path) -> Scores:
    """Read what metrics.py wrote. Raises FileNotFoundError, or ValueError for a damaged file."""
    path = folder / "metrics.json"
    if not path.is_file() or not (folder / "metrics.png").is_file():
        raise FileNotFoundError(f"{folder}: no metrics.json and metrics.png; run metrics.py first")
    try:
        content = json.loads(path.read_text())
        if not content["sets"] or not isinstance(content["caveats"], list):
            raise KeyError("sets")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a report of metrics.py: {error}") from None
    return Scores(folder, content)


def section(folders: Sequence[Path]) -> str:
    """The part of the page about scores: table, plot and the pairs closest to training clips."""
    found = [read_scores(folder) for folder in folders]
    parts = []
    for each in found:
        caveats = "; ".join(each.caveats)
        parts.append(page.stamp(caveats) if caveats else "")
        parts.append(page.table(table_of(each), header=True))
        parts.append(page.picture(each.folder / "metrics.png", f"scores as a picture; {caveats}"))
        parts.append(page.folded("What to know of these scores", page.items(notes_of(each))))
    sheets = [sheet for each in found for sheet in each.sheets]
    if sheets:
        parts.append(page.panels(*(page.sheet_panel(*sheet) for sheet in sheets)))
    return page.section("Scores", NOTE, *parts) if found else ""


def table_of(scores: Scores) -> list[list[str]]:
    """A row for every number, a column for every set and one for the floor; marked if no score."""
    sets = scores.content["sets"]
    mark = "*" if scores.caveats else ""
    rows = [["", *(str(each["name"]) for each in sets), "floor"]]
    labels = list(dict.fromkeys(score["label"] for each in sets for score in each["scores"]))
    for label in labels:
        found = [
            next((score for score in each["scores"] if score["label"] == label), None)
            for each in sets
        ]
        level = next((score["level"] for score in found if score and score["level"]), None)
        rows.append([label + mark, *(_cell(score) for score in found), _floor(level)])
    return rows


def notes_of(scores: Scores) -> list[str]:
    """Caveats, warnings, and how many videos stand behind it all."""
    content = scores.content
    marked = any(not s["publishable"] for each in content["sets"] for s in each["scores"])
    return [
        *(f"* {caveat}" for caveat in scores.caveats),
        *([f"{TOO_FEW} from too few videos for a score worth publishing"] if marked else []),
        *(_sentence(caution) for caution in content["cautions"]),
        f"protocol: {', '.join(f'{key} {value}' for key, value in content['protocol'].items())}",
    ]


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    text = with_deviation(score["value"], score["deviation"])
    if score["level"] and score["level"]["kind"] == "expected":  # a share of the clips
        text = f"{score['value']:.0%}"
    return text if score["publishable"] else f"{text} {TOO_FEW}"


def _floor(level: Mapping[str, Any] | None) -> str:
    if level is None:
        return "-"
    if level["kind"] == "expected":
        return f"{level['value']:.0%} if new"
    return with_deviation(level["value"], level["deviation"])


def _sentence(caution: Mapping[str, Any]) -> str:
    return str(Caution(**caution))
