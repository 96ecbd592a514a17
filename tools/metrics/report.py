"""The report of an evaluation: a table to read, and files for papers and programs.

Every form carries the caveat of scores that are not comparable with published ones.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.metrics.result import PUBLISHED, Result, Score, SetResult
from tools.metrics.tables import to_markdown
from tools.training.files import whole_file

FILES = ("metrics.csv", "metrics.md", "metrics.png", "metrics.json")


def write_report(result: Result, folder: Path) -> list[Path]:
    """Write the files of the report, each whole; metrics.json comes last and says all are there."""
    from tools.metrics.plot import draw

    final = folder / "metrics.json"
    final.unlink(missing_ok=True)  # what stands here belongs to an earlier report
    contents = {
        "metrics.csv": to_csv(result).encode(),
        "metrics.md": to_markdown(result).encode(),
        "metrics.png": draw(result),
        "metrics.json": to_json(result).encode(),
    }
    written = [_write_sheet(each, folder) for each in result.sets if each.sheet is not None]
    for name in FILES:
        with whole_file(folder / name) as file:
            file.write(contents[name])
        written.append(folder / name)
    return written


def _write_sheet(each: SetResult, folder: Path) -> Path:
    """The closest pairs of generated and training clips."""
    path = folder / f"memorisation-{re.sub(r'[^A-Za-z0-9._-]+', '-', each.name)}.png"
    assert each.sheet is not None
    folder.mkdir(parents=True, exist_ok=True)
    each.sheet(path)
    return path


def to_json(result: Result) -> str:
    """Everything, as one JSON object."""
    content = {
        "format": 1,
        "caveats": result.caveats(),
        "cautions": [asdict(caution) for caution in result.cautions],
        "note": PUBLISHED,
        "protocol": dict(result.protocol),
        "family": result.family,
        "real": asdict(result.real) if result.real else None,
        "sets": [_set_content(each) for each in result.sets],
        "extractors": {name: dict(facts) for name, facts in result.extractors.items()},
        "inputs": dict(result.inputs),
        "environment": dict(result.environment),
        "seconds": result.seconds,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(result: Result) -> str:
    """One row for every set and number."""
    rows = [_csv_row(result, each, score) for each in result.sets for score in each.scores]
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _csv_row(result: Result, each: SetResult, score: Score) -> dict[str, Any]:
    source = dict(result.extractors.get(score.extractor, {}).get("provenance") or {})
    halves = score.level if score.level and score.level.kind == "halves" else None
    own = score.level if score.level and score.level.kind == "real" else None
    row: dict[str, Any] = {
        "set": each.name,
        "path": each.facts.path,
        "step": each.step,
        "held_out": each.held_out,
        "metric": score.name,
        "value": score.value,
        "deviation": score.deviation,
        "deviation_over": score.deviation_over,
        "repeats_deviation": score.repeats_deviation,
        "floor": halves.value if halves else None,
        "floor_deviation": halves.deviation if halves else None,
        "real_value": own.value if own else None,
        "real_videos": score.real.videos if score.real else None,
        "real_samples": score.real.samples if score.real else None,
        "generated_videos": score.fake.videos,
        "generated_samples": score.fake.samples,
        "unit": score.fake.unit,
        "better": {"down": "lower", "up": "higher", "none": ""}[score.kind.direction],
        "publishable": score.publishable,
        "comparable": score.comparable,
        "caveat": score.caveat,
        "extractor": score.extractor,
        "fingerprint": score.fingerprint,
        "weights_sha256": source.get("sha256"),
        "weights_verified": source.get("verified"),
        "protocol": result.protocol["name"],
        "seconds": round(score.seconds, 3),
        "extra": json.dumps(dict(score.extra), allow_nan=False) if score.extra else None,
    }
    return {key: "" if value is None else value for key, value in row.items()}


def _set_content(each: SetResult) -> dict[str, Any]:
    scores = [
        {
            **asdict(score),
            "label": score.kind.label,
            "better": {"down": "lower", "up": "higher", "none": None}[score.kind.direction],
        }
        for score in each.scores
    ]
    facts = asdict(each.facts)
    if each.memorisation is not None:
        facts["memorisation"] = each.memorisation.to_plain()
    return {
        **facts,
        "step": each.step,
        "run": each.run,
        "held_out": each.held_out,
        "scores": scores,
    }
