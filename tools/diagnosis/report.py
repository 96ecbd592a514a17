"""The report of a comparison: tables, a picture and a page that shows both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.diagnosis.measures import MEASURES
from tools.diagnosis.rows import Row
from tools.diagnosis.summary import Summary, summarise
from tools.diagnosis.tables import (
    detail_table,
    difference,
    interval_table,
    main_table,
    notes,
    percent,
    to_csv,
    to_json,
    to_markdown,
    with_deviation,
)
from tools.reporting.page import code, heading, items, page, picture, section, stamp, table
from tools.training.files import whole_file

LEAD = (
    "How well a video classifier tells abnormal from normal videos when it learns from few "
    "labelled ones, and from others without labels. Numbers of few test videos and few seeds are "
    "rough: read the intervals."
)

DETAIL_LEAD = (
    "Videos called abnormal rightly (TP) and wrongly (FP), normal rightly (TN) and wrongly (FN). "
    "Percent of unlabelled clips whose pseudo-label was sure enough to be learned, and of these "
    "the right ones (where the truth is known) and those called abnormal."
)

SHORT = {
    "average precision": "AP",
    "balanced accuracy": "bal. acc.",
    " - supervised": " diff.",
    "pseudo-labels used": "pseudo",
    "of these": "",
}
TOLD = ("auroc", "f1")  # F1 depends on the threshold of 0.5 as well, AUROC on the order alone
NO_BREAK = "\u00a0"


def write_report(
    folder: Path,
    rows: Sequence[Row],
    title: str = "Diagnosis",
    command: str = "",
    further: Sequence[str] = (),
    pictures: Sequence[tuple[str, Path]] = (),
) -> list[Summary]:
    """Write table.md, table.csv, table.json, plot.png and report.html, each whole.

    Inputs:  rows of the same test videos, the trivial ones among them; what made them, as a
             command; further notes; titled pictures (png) to show below the tables
    Raises:  ValueError where rows judged different videos, OSError for a folder that cannot be
             written
    """
    from tools.diagnosis.plot import draw

    summaries = summarise(rows)
    files = {
        "table.md": to_markdown(title, summaries, further).encode(),
        "table.csv": to_csv(summaries).encode(),
        "table.json": to_json(title, summaries, further).encode(),
        "plot.png": draw(title, summaries),
    }
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)
    text = _page(title, summaries, folder / "plot.png", command, further, pictures)
    with whole_file(folder / "report.html") as file:
        file.write(text.encode())
    return summaries


def findings(summaries: Sequence[Summary]) -> list[str]:
    """What the rows say against the supervised one, a sentence for each."""
    found = []
    for each in summaries:
        if each.differences is None:
            continue
        told = [
            f"{MEASURES[name]} {difference(one)} points ({one.verdict})"
            for name, one in each.differences.items()
            if name in TOLD
        ]
        found.append(f"{each.row.name}, against supervised training: {', '.join(told)}.")
    return found


def _page(
    title: str,
    summaries: Sequence[Summary],
    plot: Path,
    command: str,
    further: Sequence[str],
    pictures: Sequence[tuple[str, Path]],
) -> str:
    told = findings(summaries)
    parts = [
        heading(title, LEAD, _facts(summaries)),
        *(stamp(text) for text in told),
        section("Scores", "Percent.", _table(main_table(summaries))),
        section("", "", picture(plot, "scores of all rows")),
        section(
            "How sure is it?",
            "Intervals, and differences to training on the labelled videos alone.",
            _table(interval_table(summaries)),
        ),
        section("Mistakes, pseudo-labels, time", DETAIL_LEAD, _table(detail_table(summaries))),
        *(section(name, "", picture(path, name)) for name, path in pictures),
        section("Notes", "", items([*notes(summaries), *further])),
    ]
    if command:
        parts.append(section("Made by", "", code(command)))
    return page(title, parts)


def _table(lines: Sequence[Sequence[str]]) -> str:
    """A table of the page: values do not break, headings are short."""
    head, *body = lines
    for long, short in SHORT.items():
        head = [name.replace(long, short) for name in head]
    unbroken = [[name, *(cell.replace(" ", NO_BREAK) for cell in cells)] for name, *cells in body]
    return table([head, *unbroken], header=True)


def _facts(summaries: Sequence[Summary]) -> dict[str, str]:
    first = summaries[0].row
    facts = {
        "test videos": f"{len(first.labels)}",
        "of them abnormal": percent(float(first.labels.mean())) + " %",
    }
    trained = [each for each in summaries if not each.row.trivial]
    if trained:
        facts[f"AUROC, {trained[0].row.name}"] = with_deviation(trained[0].values["auroc"])
        facts["seeds"] = str(max(len(each.row.seeds) for each in trained))
    return facts
