"""The tables of a comparison as text: for papers in Markdown, and for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tools.diagnosis.measures import CONFUSION, DRAWS, LEVEL, MEASURES, Interval
from tools.diagnosis.summary import Difference, Summary, Value

EXPLAINED = (
    "Values in percent: mean ± standard deviation over seeds. F1 is that of the abnormal class at "
    "probability 0.5."
)
ALIKE = (
    "A seed gives the same labelled videos and the same start weights in all rows of equally many "
    "labelled videos."
)
JUDGED = "The last step is judged: nothing was chosen on the test videos."
CHOSEN = "the best epoch was chosen on the test videos, so its values are too high"
INTERVALS = (
    f"Intervals hold {LEVEL:.0%} of {DRAWS} bootstrap draws of test videos and of seeds; "
    "differences are taken within each draw (paired), and not corrected for being several."
)
DETAILS = (
    "Counts of right and wrong answers are means over seeds; shares of pseudo-labels are those of "
    "the last steps."
)
TRIVIAL = "need no understanding of video; a row that does not beat them shows none"
NONE = "-"  # in a cell that has no value
Cells = list[str]


def main_table(summaries: Sequence[Summary]) -> list[Cells]:
    """What a reader looks for first: one line for each row, the heading first."""
    lines = [["row", "labelled", "unlabelled", "seeds", *MEASURES.values()]]
    for each in summaries:
        counts = _counts(each)
        lines.append(
            [
                each.row.name,
                str(counts.get("labelled", NONE)),
                str(counts.get("unlabelled", NONE)),
                str(len(each.row.seeds) or NONE),
                *(with_deviation(each.values[name]) for name in MEASURES),
            ]
        )
    return lines


def interval_table(summaries: Sequence[Summary]) -> list[Cells]:
    """Intervals of three scores, and how the rows differ from the supervised one."""
    names = ("f1", "auroc", "balanced_accuracy")
    heads = [MEASURES[name] for name in names]
    lines = [["row", *heads, *(f"{head} - supervised" for head in heads)]]
    for each in summaries:
        differences = each.differences
        lines.append(
            [
                each.row.name,
                *(_range(each.values[name].interval) for name in names),
                *(difference(differences[name]) if differences else NONE for name in names),
            ]
        )
    return lines


def detail_table(summaries: Sequence[Summary]) -> list[Cells]:
    """Confusion, pseudo-labels, and what the training took."""
    head = ["row", "TP", "FP", "TN", "FN", "pseudo-labels used", "of these right"]
    lines = [[*head, "of these abnormal", "s per seed", "clips/s", "start weights"]]
    for each in summaries:
        pseudo = each.pseudo
        seconds = [float(result["seconds"]) for result in each.row.results if "seconds" in result]
        speeds = [
            float(result["clips_per_second"])
            for result in each.row.results
            if "clips_per_second" in result
        ]
        lines.append(
            [
                each.row.name,
                *(f"{each.confusion[name]:.1f}" for name in CONFUSION),
                *(
                    percent(pseudo[name]) if name in pseudo else NONE
                    for name in ("mask_rate", "pseudo_accuracy", "pseudo_abnormal")
                ),
                f"{sum(seconds) / len(seconds):.0f}" if seconds else NONE,
                f"{sum(speeds) / len(speeds):.0f}" if speeds else NONE,
                start_weights(each),
            ]
        )
    return lines


def start_weights(summary: Summary) -> str:
    """Name and checksum of the weights that the row began with."""
    if summary.row.trivial or not summary.facts:
        return NONE
    weights = summary.facts.get("weights")
    if not isinstance(weights, dict):
        return "random"
    return f"sha256 {str(weights.get('checksum'))[:12]}"


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader has to know, in sentences."""
    chosen = [each.row.name for each in summaries if _chose_on_test(each)]
    trained = sum(not each.row.trivial for each in summaries)
    labels = summaries[0].row.labels
    found = [f"{len(labels)} test videos, {int(labels.sum())} of them abnormal.", EXPLAINED]
    if trained > 1:
        found.append(ALIKE)
    found += [f"{name}: {CHOSEN}." for name in chosen] or [JUDGED]
    found += [INTERVALS, DETAILS]
    rules = [each.row.name for each in summaries if each.row.trivial]
    if rules:
        found.append(f"The rules ({', '.join(rules)}) {TRIVIAL}.")
    return found + [f"{each.row.name}: {each.row.note}." for each in summaries if each.row.note]


def to_markdown(title: str, summaries: Sequence[Summary], further: Sequence[str] = ()) -> str:
    """All tables with their notes."""
    trivial = {each.row.name for each in summaries if each.row.trivial}
    parts = [f"# {title}", ""]
    for table in (main_table, interval_table, detail_table):
        parts += [*_markdown(table(summaries), trivial), ""]
    parts += [f"- {note}" for note in (*notes(summaries), *further)]
    return "\n".join(parts) + "\n"


def to_csv(summaries: Sequence[Summary]) -> str:
    """One line for each row and score, with the value of every seed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ("row", "score", "mean", "deviation", "low", "high", "difference", "seeds", "values")
    )
    for each in summaries:
        for name, value in each.values.items():
            compared = each.differences[name].mean if each.differences else None
            table.writerow(
                (
                    each.row.name,
                    name,
                    _exact(value.mean),
                    _exact(value.deviation),
                    _exact(value.interval.low),
                    _exact(value.interval.high),
                    _exact(compared),
                    " ".join(map(str, each.row.seeds)),
                    " ".join(_exact(one) for one in value.of_seeds),
                )
            )
    return text.getvalue()


def to_json(title: str, summaries: Sequence[Summary], further: Sequence[str] = ()) -> str:
    """Everything but the predictions."""
    content = {
        "format": 1,
        "title": title,
        "notes": [*notes(summaries), *further],
        "rows": [_plain(each) for each in summaries],
    }
    return json.dumps(content, indent=1) + "\n"


def percent(share: float) -> str:
    """A share in percent, one digit behind the point."""
    return f"{100 * share:.1f}"


def with_deviation(value: Value) -> str:
    """Mean ± deviation in percent."""
    if value.deviation is None:
        return percent(value.mean)
    return f"{percent(value.mean)} ± {percent(value.deviation)}"


def difference(found: Difference) -> str:
    """Points of percent with sign and interval."""
    return f"{100 * found.mean:+.1f} {_range(found.interval, '+')}"


def _range(interval: Interval, sign: str = "") -> str:
    return f"[{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def _counts(summary: Summary) -> Mapping[str, Any]:
    counts = summary.facts.get("counts")
    return counts if isinstance(counts, dict) else {}


def _chose_on_test(summary: Summary) -> bool:
    settings = summary.facts.get("settings")
    evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
    return isinstance(evaluate, dict) and evaluate.get("choose") == "best_on_test"


def _markdown(lines: list[Cells], trivial: set[str]) -> list[str]:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    body = [[f"*{name}*" if name in trivial else name, *cells] for name, *cells in body]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _plain(summary: Summary) -> dict[str, Any]:
    row = summary.row
    return {
        "name": row.name,
        "trivial": row.trivial,
        "note": row.note,
        "seeds": list(row.seeds),
        "scores": {name: asdict(value) for name, value in summary.values.items()},
        "confusion": dict(summary.confusion),
        "difference": {
            name: {**asdict(one), "verdict": one.verdict}
            for name, one in (summary.differences or {}).items()
        },
        "pseudo_labels": dict(summary.pseudo),
        "results": [dict(result) for result in row.results],
    }
