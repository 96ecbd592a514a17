"""The tables of a report as text: for the console, and for papers in markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tools.metrics.catalogue import ScoreKind
from tools.metrics.result import PUBLISHED, Count, Level, Result, Score

MARKS = "*†‡§"  # one for each caveat, beside every label that it is about
LEVEL_ROWS = {
    "halves": "floor (real halves)",
    "real": "real videos",
    "expected": "expected of new videos",
}
TOO_FEW = "!"  # beside values from too few samples
TOO_FEW_SENTENCE = (
    "! too few videos for a score: the number of videos decides this value more than their "
    "quality does. Not worth publishing; at most the order of sets with equal numbers tells."
)


def number(value: float, deviation: float | None = None) -> str:
    """A value with as many digits as its standard deviation allows: two digits of that, or four.

    >>> number(460.7312, 12.34), number(0.01234, 0.00056), number(3.14159)
    ('461', '0.01234', '3.142')
    """
    if deviation is None or not math.isfinite(deviation) or deviation <= 0:
        size = abs(value)
        digits = 4 if size == 0 else 3 - math.floor(math.log10(size))
    else:
        digits = 1 - math.floor(math.log10(deviation))
    # No digits that four-byte features cannot carry, and none in front of the point dropped.
    digits = max(0, min(digits, 8))
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def with_deviation(value: float, deviation: float | None) -> str:
    """`value ± SD`, or the value alone where no deviation is known."""
    if deviation is None or not math.isfinite(deviation):
        return number(value)
    digits = max(0, min(1 - math.floor(math.log10(deviation)), 8)) if deviation > 0 else 0
    shown = f"{deviation:.{digits}f}" if deviation > 0 else "0"
    return f"{number(value, deviation)} ± {shown}"


def marks(result: Result) -> dict[str, str]:
    """The mark of every caveat."""
    return {
        caveat: MARKS[k % len(MARKS)] * (k // len(MARKS) + 1)
        for k, caveat in enumerate(result.caveats())
    }


def heading(result: Result, kind: ScoreKind) -> str:
    """The label of a number, its caveat's mark and its arrow: `FVD* ↓`."""
    score = _first(result, kind)
    mark = marks(result).get(score.caveat, "")
    return kind.heading.replace(kind.label, kind.label + mark, 1)


def has_too_few(result: Result) -> bool:
    """Whether some score is not worth publishing for its few videos."""
    return any(not score.publishable for each in result.sets for score in each.scores)


def to_console(result: Result) -> str:
    """The aligned table with everything that its reader has to know."""
    lines = [*_inputs(result), ""]
    rows = _rows(result)
    lines += _aligned(rows, right=(2, 3, *((4,) if len(rows[0]) > 6 else ())))
    lines += ["", *_further(result), *_notes(result)]
    return "\n".join(lines)


def to_markdown(result: Result) -> str:
    """The table of a paper: one row for every set, a row for the floor, and the caption."""
    kinds = result.kinds()
    table = [
        ["method", *(heading(result, kind) for kind in kinds)],
        ["---", *("---:" for _ in kinds)],
    ]
    table += [
        [each.name, *(_cell(result.score(each, kind)) for kind in kinds)] for each in result.sets
    ]
    levels = [_first(result, kind).level for kind in kinds]
    for kind, label in LEVEL_ROWS.items():
        if any(level and level.kind == kind for level in levels):
            table.append([label, *(_level_cell(level, kind) for level in levels)])
    lines = ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in table]
    return "\n".join([*lines, "", *_caption(result)]) + "\n"


def _rows(result: Result) -> list[list[str]]:
    """Heading, then for every number a line per set."""
    rows = [["metric", "set", "score", "over seeds", "floor", "real", "generated"]]
    for kind in result.kinds():
        label = heading(result, kind)
        for each in result.sets:
            score = result.score(each, kind)
            if score is None:
                continue
            rows.append(
                [
                    label,
                    each.name,
                    _cell(score),
                    _over_seeds(score),
                    _level_text(score.level),
                    str(score.real) if score.real else "-",
                    str(score.fake),
                ]
            )
            label = ""
    if all(row[3] == "" for row in rows[1:]):  # without --repeats
        rows = [row[:3] + row[4:] for row in rows]
    return rows


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    text = with_deviation(score.value, score.deviation)
    return text if score.publishable else f"{text} {TOO_FEW}"


def _over_seeds(score: Score) -> str:
    spread = score.repeats_deviation
    if spread is None:
        return ""
    return "± " + with_deviation(spread, spread).split(" ± ")[-1] if spread else "± 0"


def _level_text(level: Level | None) -> str:
    if level is None:
        return "-"
    if level.kind == "expected":
        return f"new: {level.value:g}"
    text = with_deviation(level.value, level.deviation)
    return f"real: {text}" if level.kind == "real" else text


def _level_cell(level: Level | None, kind: str) -> str:
    if level is None or level.kind != kind:
        return "-"
    return with_deviation(level.value, level.deviation)


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns of one width, a rule below the first row and a gap before each new metric."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        cells = [
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if index > 1 and row[0] and len(rows) > 2 and rows[index - 1][0] == "":
            lines.append("")
        lines.append("  ".join(cells).rstrip())
        if index == 0:
            lines.append("  ".join("-" * width for width in widths))
    return lines


def _inputs(result: Result) -> list[str]:
    """What was compared, how, and with what."""
    lines = []
    if result.real is not None:
        lines.append(
            f"real       {result.real.path}: {result.real.used} of {result.real.videos} videos used"
        )
    for each in result.sets:
        label = "held out" if each.held_out else "generated"
        lines.append(
            f"{label:9s}  {each.name} = {each.facts.path}: {each.facts.used} of "
            f"{each.facts.videos} videos used"
        )
    chosen = ", ".join(f"{key}={value}" for key, value in result.protocol.items() if key != "name")
    lines.append(f"protocol   {result.protocol['name']}: {chosen}")
    for name, facts in result.extractors.items():
        lines.append(f"extractor  {name}: {_provenance(facts)}")
    return lines


def _provenance(facts: Any) -> str:
    source = dict(facts.get("provenance") or {})
    parts = [f"fingerprint {str(facts['fingerprint'])[:12]}"]
    if source.get("sha256"):
        state = "verified" if source.get("verified") else "unverified weights"
        parts.append(f"weights sha256 {str(source['sha256'])[:12]} ({state})")
    return ", ".join(parts)


def _further(result: Result) -> list[str]:
    """Findings beside the scores: for many videos, over seeds, without motion, and copies."""
    lines = []
    for each in result.sets:
        for score in each.scores:
            found = _further_of(score)
            if found:
                lines.append(f"{each.name}, {score.kind.label}: {'; '.join(found)}")
    return [*lines, ""] if lines else []


def _further_of(score: Score) -> list[str]:
    extra, found = score.extra, []
    if f"{score.name}_inf" in extra:
        doubt = "" if score.publishable else " (a rough guess, rather too large)"
        limit = number(extra[f"{score.name}_inf"], score.deviation)
        found.append(f"about {limit} for infinitely many videos{doubt}")
    if "ratio_to_fvd" in extra:
        found.append(f"{extra['ratio_to_fvd']:.2f} of FVD (near 1: FVD saw no motion)")
    if "verdict" in extra:
        found.append(str(extra["verdict"]))
    return found


def _notes(result: Result) -> list[str]:
    """Caveats, cautions and how to read the table."""
    lines = [f"{mark} {caveat}" for caveat, mark in marks(result).items()]
    if has_too_few(result):
        lines.append(TOO_FEW_SENTENCE)
    lines += [f"warning: {caution}" for caution in result.cautions]
    lines += [_reading(result), PUBLISHED, _timing(result)]
    return lines


def _timing(result: Result) -> str:
    """How long it took, and how fast videos became features."""
    sides = [each.facts for each in result.sets] + ([result.real] if result.real else [])
    new = sum(side.used - side.extra.get("reused_from_cache", 0) for side in sides)
    seconds = sum(side.seconds for side in sides)
    fresh = [side for side in sides if side.used and not side.extra.get("reused_from_cache", 0)]
    speed = ""
    if fresh:  # the time of other sides is partly that of the cache
        pace = sum(side.seconds for side in fresh) / sum(side.used for side in fresh)
        speed = f", {1000 * pace:.0f} s for 1000 videos"
    return (
        f"Took {result.seconds:.0f} s, of which {seconds:.0f} s for the features of {new} new "
        f"videos{speed}."
    )


def _reading(result: Result) -> str:
    """What stands behind ± and floor, in one sentence or two."""
    over: dict[str, list[str]] = {}
    for score in result.sets[0].scores:
        if score.deviation is not None:
            over.setdefault(score.deviation_over, []).append(score.kind.label)
    told = "; ".join(f"{what} ({', '.join(labels)})" for what, labels in over.items())
    text = f"± is one standard deviation: {told}." if told else ""
    halves = {
        score.level.videos
        for each in result.sets
        for score in each.scores
        if score.level and score.level.kind == "halves"
    }
    if halves:
        text += (
            f" Floor: disjoint halves of the real videos ({min(halves)} each) against each other,"
            " the score of real videos at that number; more videos make Fréchet distances smaller."
        )
    return text.strip()


def _caption(result: Result) -> list[str]:
    counts = [
        f"{each.name}: {_counts([score.fake for score in each.scores])}" for each in result.sets
    ]
    real = [score.real for each in result.sets for score in each.scores if score.real]
    sentences = [
        f"Protocol `{result.protocol['name']}` with {result.family} features.",
        f"Real: {_counts(real)}." if real else "",
        f"Generated: {'; '.join(counts)}.",
        _reading(result),
        PUBLISHED,
    ]
    lines = [" ".join(sentence for sentence in sentences if sentence), ""]
    lines += [f"{mark} **{caveat}**\n" for caveat, mark in marks(result).items()]
    if has_too_few(result):
        lines.append(f"**{TOO_FEW_SENTENCE}**\n")
    lines += [f"- {line}" for line in _further(result) if line]
    lines += [f"- {caution}" for caution in result.cautions]
    return lines


def _counts(counts: Sequence[Count]) -> str:
    """`7 videos (7 clips, 112 frames)`, each kind once."""
    samples = {count.unit: count.samples for count in counts}
    videos = max(count.videos for count in counts)
    return f"{videos} videos ({', '.join(f'{n} {unit}' for unit, n in samples.items())})"


def _first(result: Result, kind: ScoreKind) -> Score:
    """A score of that kind: its floor and caveat are those of all sets."""
    found = (result.score(each, kind) for each in result.sets)
    return next(score for score in found if score is not None)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
