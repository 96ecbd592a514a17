"""The HTML of a report: one file that opens anywhere, without a network or scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tools.reporting.chart import COLOURS, Points, line_chart
from tools.reporting.media import embedded

STYLE = Path(__file__).with_name("style.css")


def page(title: str, sections: Sequence[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def heading(title: str, lead: str, facts: Mapping[str, str]) -> str:
    """Title, what this is, and a row of key figures (name -> figure)."""
    items = "".join(
        f"<li><b>{escape(v)}</b><span>{escape(k)}</span></li>" for k, v in facts.items()
    )
    return (
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f'<ul class="facts">{items}</ul>\n'
    )


def section(title: str, text: str, *parts: str) -> str:
    """A part of the page; `parts` are HTML, the rest is plain text."""
    note = f"<p>{escape(text)}</p>\n" if text else ""
    return f"<h2>{escape(title)}</h2>\n{note}{''.join(parts)}\n"


def panels(*contents: str) -> str:
    """Panels beside each other, below each other on a narrow screen."""
    return f'<div class="panels">{"".join(contents)}</div>\n'


def video_panel(
    title: str, note: str, videos: Sequence[Path], tone: str, wide: bool = False
) -> str:
    """A titled grid of running videos (mp4 files), with a coloured edge; wide: all in one row."""
    tiles = "".join(_tile(path) for path in videos)
    kind = "panel wide" if wide else "panel"
    return (
        f'<div class="{kind}" style="--tone: {tone}"><h3>{escape(title)}</h3>'
        f'<p>{escape(note)}</p><div class="videos">{tiles}</div></div>'
    )


def picture(path: Path, description: str) -> str:
    """An embedded picture."""
    return f'<div class="card"><img src="{embedded(path)}" alt="{escape(description)}"></div>\n'


def charts(columns: Mapping[str, Mapping[str, Points]]) -> str:
    """One chart for each title -> (name of the line -> points), and a legend for all."""
    figures = "".join(
        f'<figure class="card"><figcaption>{escape(title)}</figcaption>'
        f"{line_chart(series, title)}</figure>"
        for title, series in columns.items()
    )
    names = next(iter(columns.values())) if columns else {}
    legend = "".join(
        f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in zip(names, COLOURS, strict=False)
    )
    return f'<div class="charts">{figures}</div>\n<p class="legend">{legend}</p>\n'


def stamp(text: str) -> str:
    """A line that nobody overlooks."""
    return f'<p class="stamp">{escape(text)}</p>\n'


def items(texts: Sequence[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>\n"


def sheet_panel(title: str, path: Path, note: str) -> str:
    """A titled panel with a tall picture that scrolls."""
    return (
        f'<div class="panel"><h3>{escape(title)}: closest to training</h3><p>{escape(note)}</p>'
        f'<div class="tall"><img src="{embedded(path)}" alt="{escape(note)}"></div></div>'
    )


def table(
    rows: Sequence[Sequence[str]],
    code_column: int = -1,
    number_column: int = -1,
    header: bool = False,
) -> str:
    """Rows of plain text; the first cell of each is its name, the first row perhaps a header."""
    lines = []
    if header:
        names = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
        lines.append(f"<tr>{names}</tr>")
    for row in rows[int(header) :]:
        cells = [f"<th>{escape(row[0])}</th>"]
        for index, cell in enumerate(row[1:], start=1):
            text = f"<code>{escape(cell)}</code>" if index == code_column else escape(cell)
            kind = ' class="number"' if index == number_column else ""
            cells.append(f"<td{kind}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="card"><table>{"".join(lines)}</table></div>\n'


def code(text: str) -> str:
    """A block of commands or settings."""
    return f"<pre>{escape(text)}</pre>\n"


def folded(summary: str, content: str) -> str:
    """HTML that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"


def _tile(path: Path) -> str:
    name = escape(path.stem)
    return f'<video src="{embedded(path)}" title="{name}" autoplay loop muted playsinline></video>'
