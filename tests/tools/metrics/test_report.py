"""What stands in the table, the files and the picture of a report."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tools.metrics.plot
from tools.metrics.plot import draw, is_curve
from tools.metrics.report import to_csv, to_json, write_report
from tools.metrics.result import (
    Caution,
    Count,
    Level,
    Result,
    Score,
    SetFacts,
    SetResult,
    merged_cautions,
)
from tools.metrics.tables import number, to_console, to_markdown, with_deviation

CAVEAT = "untrained features - not comparable with published numbers"


def score(metric: str = "fvd", value: float = 460.73, **changes: Any) -> Score:
    plain = Score(
        metric=metric,
        name=metric,
        value=value,
        deviation=12.34,
        deviation_over="over 100 bootstrap resamples of the videos of both sides",
        real=Count(210, 210, "clips"),
        fake=Count(1024, 1024, "clips"),
        level=Level("halves", 98.7, 4.2, 105),
        extractor="i3d",
        fingerprint="f" * 64,
        comparable=True,
        caveat="",
    )
    return replace(plain, **changes)


def facts(name: str) -> SetFacts:
    return SetFacts(name, f"samples/{name}", 1024, 1024, [], {"128x128": 1024}, {"mp4": 1024}, 8.0)


def result(*sets: SetResult, **changes: Any) -> Result:
    plain = Result(
        protocol={"name": "endora", "frame_size": 128, "real_stride": 1},
        family="reference",
        sets=sets or (SetResult(facts("ours"), [score()]),),
        real=facts("real"),
        extractors={
            "i3d": {
                "fingerprint": "f" * 64,
                "provenance": {"sha256": "bec6519f66ea", "verified": True},
            }
        },
        cautions=[Caution("the real videos are the training set")],
        environment={"git_commit": "0" * 40},
        seconds=10.0,
    )
    return replace(plain, **changes)


def stamped(**changes: Any) -> Result:
    """A result that must not be compared with published ones."""
    fvd = score(comparable=False, caveat=CAVEAT, **changes)
    return result(SetResult(facts("ours"), [fvd]), family="untrained")


@pytest.mark.parametrize(
    ("value", "deviation", "text"),
    [
        (460.7312, 12.34, "461 ± 12"),
        (460.7312, 1.234, "460.7 ± 1.2"),
        (0.0123456, 0.00056, "0.01235 ± 0.00056"),
        (-0.0001, 0.0031, "-0.0001 ± 0.0031"),
        (-0.00001, 0.0031, "0.0000 ± 0.0031"),
        (45678.9, 1234.0, "45679 ± 1234"),
        (3.14159, None, "3.142"),
        (0.0, None, "0.0000"),
        (1.0, 0.0, "1.000 ± 0"),
        (2.5, float("nan"), "2.500"),
        (9.96, 0.0999, "9.960 ± 0.100"),
    ],
)
def test_digits_are_those_that_the_deviation_allows(
    value: float, deviation: float | None, text: str
) -> None:
    assert with_deviation(value, deviation) == text
    assert text.startswith(number(value, deviation))


def test_the_table_shows_arrow_value_deviation_floor_and_counts() -> None:
    lines = to_console(result()).splitlines()
    row = next(line for line in lines if line.startswith("FVD ↓"))
    assert "461 ± 12" in row
    assert "98.7 ± 4.2" in row
    assert "210 videos, 210 clips" in row
    assert "1024 videos, 1024 clips" in row
    text = "\n".join(lines)
    assert "protocol   endora: frame_size=128, real_stride=1" in text
    assert "weights sha256 bec6519f66ea (verified)" in text
    assert "warning: the real videos are the training set" in text
    assert "orders of magnitude" in text or "order of magnitude" in text
    assert "over seeds" not in text


def test_columns_of_the_table_are_aligned() -> None:
    sets = [
        SetResult(facts(name), [score(value=value)]) for name, value in (("a", 1), ("bcd", 9e3))
    ]
    lines = to_console(result(*sets)).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("metric"))
    place = lines[start].index("generated")
    assert all(line[place:].startswith("1024 videos") for line in lines[start + 2 : start + 4])
    assert lines[start + 3].split()[0] == "bcd"  # a metric's name stands once


def test_every_form_says_that_scores_are_not_comparable() -> None:
    found = stamped()
    picture = Image.open(io.BytesIO(draw(found)))
    for text in (to_console(found), to_markdown(found), to_csv(found), picture.info["Title"]):
        assert CAVEAT in text
    content = json.loads(to_json(found))
    assert content["caveats"] == [CAVEAT]
    assert content["sets"][0]["scores"][0]["comparable"] is False
    assert "FVD* ↓" in to_console(found)
    assert "| FVD* ↓ |" in to_markdown(found)


def test_no_form_stamps_scores_that_are_comparable() -> None:
    found = result()
    for text in (to_console(found), to_markdown(found), to_csv(found), to_json(found)):
        assert "not comparable" not in text
        assert "FVD*" not in text


def test_scores_of_too_few_videos_are_marked() -> None:
    found = stamped(publishable=False)
    picture = Image.open(io.BytesIO(draw(found)))
    assert "461 ± 12 !" in to_console(found)
    assert "461 ± 12 !" in to_markdown(found)
    for text in (to_console(found), to_markdown(found), picture.info["Title"]):
        assert " ".join(text.split()).count("Not worth publishing") == 1
    assert json.loads(to_json(found))["sets"][0]["scores"][0]["publishable"] is False
    assert "!" not in to_markdown(result())


def test_the_csv_has_a_row_for_every_set_and_number() -> None:
    both = [score(), score("fid", 13.41)]
    sets = [SetResult(facts("ours"), both, step=7), SetResult(facts("theirs"), both[:1])]
    rows = list(csv.DictReader(io.StringIO(to_csv(result(*sets)))))
    assert [(row["set"], row["metric"]) for row in rows] == [
        ("ours", "fvd"),
        ("ours", "fid"),
        ("theirs", "fvd"),
    ]
    first = rows[0]
    assert float(first["value"]) == 460.73  # complete, whatever the table rounds
    assert (first["step"], first["better"], first["weights_sha256"]) == (
        "7",
        "lower",
        "bec6519f66ea",
    )
    assert (first["real_videos"], first["generated_samples"], first["floor"]) == (
        "210",
        "1024",
        "98.7",
    )


def test_the_markdown_is_a_papers_table() -> None:
    inception = score(
        "is",
        3.9,
        deviation=0.1,
        real=None,
        level=Level("real", 4.2, 0.2, 210),
        extra={"splits": 10},
    )
    text = to_markdown(result(SetResult(facts("ours | old"), [score(), inception])))
    lines = text.splitlines()
    assert lines[0] == "| method | FVD ↓ | IS ↑ |"
    assert lines[2] == "| ours \\| old | 461 ± 12 | 3.90 ± 0.10 |"
    assert lines[3] == "| floor (real halves) | 98.7 ± 4.2 | - |"
    assert lines[4] == "| real videos | - | 4.20 ± 0.20 |"
    assert "Protocol `endora`" in text
    assert "210 videos" in text
    assert "Published values are targets of order of magnitude only" in text


def test_further_findings_stand_below_the_table() -> None:
    extra = {"fvd_inf": 401.234}
    frozen = score("fvd_frozen", 900.0, level=None, extra={"ratio_to_fvd": 1.953})
    found = result(SetResult(facts("ours"), [score(extra=extra, repeats_deviation=3.21), frozen]))
    for text in (to_console(found), to_markdown(found)):
        assert "ours, FVD: about 401 for infinitely many videos" in text
        assert "1.95 of FVD" in text
    assert "± 3.2 " in to_console(found)


def test_a_score_is_a_finite_number() -> None:
    with pytest.raises(ValueError, match="fvd: the score is not a finite number: nan"):
        score(value=float("nan"))


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(result(SetResult(facts("ours"), [score(deviation=float("nan"))])))


def test_files_are_written_whole_and_the_json_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["metrics.csv", "metrics.json", "metrics.md", "metrics.png"]
    written = write_report(result(), tmp_path / "new" / "out")
    assert sorted(path.name for path in written) == names
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == names
    monkeypatch.setattr(tools.metrics.plot, "draw", lambda found: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(result(), tmp_path / "new" / "out")
    assert not (tmp_path / "new" / "out" / "metrics.json").exists()  # nothing that is not complete


def steps(*numbers: int | None, run: str | None = "runs/a") -> Result:
    sets = [
        SetResult(facts(f"step {step}"), [score(value=100.0 - k)], step=step, run=run)
        for k, step in enumerate(numbers)
    ]
    return result(*sets)


def test_samples_of_one_run_are_drawn_over_its_steps() -> None:
    assert is_curve(steps(1000, 2000, 3000))
    assert not is_curve(steps(1000))
    assert not is_curve(steps(1000, 1000))
    assert not is_curve(steps(1000, None))
    other = replace(steps(5).sets[0], run="runs/b")
    assert not is_curve(replace(steps(1000), sets=[*steps(1000).sets, other]))
    held_out = replace(steps(None).sets[0], held_out=True)
    assert is_curve(replace(steps(1, 2), sets=[*steps(1, 2).sets, held_out]))


@pytest.mark.parametrize("found", [result(), steps(1000, 2000), stamped(publishable=False)])
def test_the_picture_shows_score_and_floor(found: Result) -> None:
    picture = np.asarray(Image.open(io.BytesIO(draw(found))).convert("RGB")).astype(int)
    assert picture.shape[1] >= 900

    def pixels_of(colour: tuple[int, int, int]) -> int:
        return int((np.abs(picture - np.array(colour)).sum(axis=2) < 12).sum())

    publishable = found.sets[0].scores[0].publishable
    assert pixels_of((0x2D, 0x6F, 0xA8) if publishable else (0xC2, 0x45, 0x2D)) > 20
    assert pixels_of((0xE3, 0xB2, 0x3C)) > 50


def test_equal_sentences_become_one() -> None:
    found = [
        Caution("few videos", ("a",), ("FVD",)),
        Caution("few videos", ("b",), ("FVD",)),
        Caution("few videos", ("a",), ("KVD",)),
        Caution("few videos", ("b",), ("KVD",)),
        Caution("short", ("b",)),
        Caution("training set"),
    ]
    assert [str(caution) for caution in merged_cautions(found, ["a", "b"])] == [
        "FVD, KVD: few videos",
        "b: short",
        "training set",
    ]


def test_the_pace_is_that_of_sides_without_a_cache() -> None:
    """10 new videos of a side took 10 s, and 1014 of 1024 others came from the cache in 8 s."""
    new = replace(facts("real"), used=10, seconds=10.0, extra={"reused_from_cache": 0})
    old = replace(facts("ours"), extra={"reused_from_cache": 1014})
    told = to_console(result(SetResult(old, [score()]), real=new)).splitlines()[-1]
    assert (
        told
        == "Took 10 s, of which 18 s for the features of 20 new videos, 1000 s for 1000 videos."
    )
    neither = to_console(result(SetResult(old, [score()]), real=None)).splitlines()[-1]
    assert neither == "Took 10 s, of which 8 s for the features of 10 new videos."
