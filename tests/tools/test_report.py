"""The page about a run, from folders as the other commands leave them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datasets.video_io import write_video
from tools import report


def write_run(folder: Path, initial: str | None, commit: str = "abc") -> Path:
    """A run folder with what the report reads, and its samples."""
    (folder / "samples").mkdir(parents=True)
    settings = {
        "method_name": "toy",
        "clip": {"frames": 4, "size": 16, "frame_interval": 2},
        "train": {"seed": 3407, "initial_weights": initial},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.json").write_text(json.dumps({"git_commit": commit}))
    (folder / "losses.csv").write_text(
        "step,loss/mean,learning_rate/mean\n10,0.5,0.01\n20,0.25,0.01\n"
    )
    record = {
        "made_by": {
            "method": "toy",
            "step": 20,
            "weights_sha256": "0" * 64,
            "precision": "fp32",
            "fps": 8.0,
            "sampling": {"strength": 1.0},
        },
        "device": "cpu",
        "versions": {"torch": "2.9.9"},
        "count": 2,
        "videos": {"000000": 5, "000001": 6},
    }
    (folder / "samples" / "samples.json").write_text(json.dumps(record))
    Image.new("RGB", (8, 8)).save(folder / "samples" / "contact_sheet.png")
    for name in record["videos"]:
        write_video(folder / "samples" / f"{name}.mp4", np.zeros((4, 16, 16, 3), np.uint8), 8)
    return folder


def write_report(tmp_path: Path, *options: str) -> str:
    run, output = tmp_path / "run", tmp_path / "out" / "report.html"
    fixed = ["--run", str(run), "--samples", str(run / "samples"), "--output", str(output)]
    assert report.main([*fixed, *options]) == 0
    return output.read_text()


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    page = write_report(tmp_path)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert "<script" not in page
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["contact_sheet.png", "report.html", "samples.gif"]


def test_the_page_is_well_formed(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attributes: object) -> None:
            if tag not in {"meta", "img", "line"}:
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attributes: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(write_report(tmp_path))
    assert open_tags == []


def test_scratch_and_pre_trained_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial="shipped.safetensors")
    write_run(tmp_path / "scratch", initial=None)
    scratch = tmp_path / "scratch"
    page = write_report(
        tmp_path, "--compare-run", str(scratch), "--compare-samples", str(scratch / "samples")
    )
    assert "Continued here for 20 steps from the pre-trained weights in shipped" in page
    assert "Trained here from random weights, in 20 steps and no more" in page
    assert "from pre-trained weights (run)" in page
    assert "from scratch (scratch)" in page
    assert page.count("<video") == 4


def test_settings_seeds_versions_and_stages_are_there(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None, commit="0123abcd")
    stages = tmp_path / "stages.json"
    stages.write_text(
        json.dumps({"stages": [{"title": "a stage", "command": "python x.py", "seconds": 61}]})
    )
    page = write_report(tmp_path, "--stages", str(stages))
    for text in ("0123abcd", "seeds 5 to 6", "torch 2.9.9", "strength 1.0", "a stage", "1:01 min"):
        assert text in page


def test_the_curves_of_adversarial_training_have_plain_titles(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", initial=None)
    names = "loss/generator,output_real,output_generated,sign_real,augmentation,r1,kimg"
    (run / "losses.csv").write_text(
        f"step,{names}\n10,1,0.1,-0.1,0.2,0.0,,0.5\n20,1.5,0.2,-0.2,0.3,0.1,0.01,1.0\n"
    )
    page = write_report(tmp_path)
    assert "Total loss of the generator" in page
    assert "Strength of the augmentation (ADA)" in page
    assert "output on real clips" in page
    assert page.count("<figure") == 6  # kimg is none


def test_only_losses_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    page = write_report(tmp_path)
    assert "Total loss of the mean" in page
    assert page.count("<figure") == 1


CAVEAT = "such features - not comparable with published numbers"


def write_metrics(folder: Path) -> Path:
    """What the report reads of a folder that metrics.py wrote."""
    folder.mkdir()
    score = {
        "label": "FVD",
        "value": 12.345,
        "deviation": 1.5,
        "publishable": False,
        "level": {"kind": "halves", "value": 4.25, "deviation": 0.5},
    }
    near = {**score, "label": "near training", "value": 0.25, "deviation": None}
    near["level"] = {"kind": "expected", "value": 0.05, "deviation": None}
    sets = [
        {"name": "our samples", "scores": [score, near], "memorisation": {"verdict": "No sign."}},
        {"name": "others", "scores": [{**score, "value": 99.0}]},
    ]
    cautions = [{"sentence": "only 8 videos", "sets": ["others"], "labels": ["FVD"]}]
    content = {"caveats": [CAVEAT], "cautions": cautions, "protocol": {"seed": 0}, "sets": sets}
    (folder / "metrics.json").write_text(json.dumps(content))
    for name in ("metrics.png", "memorisation-our-samples.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_scores_stand_there_with_their_caveat(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    folder = write_metrics(tmp_path / "metrics")
    page = write_report(tmp_path, "--metrics", str(folder))
    assert f'<p class="stamp">{CAVEAT}</p>' in page
    head = "<tr><th></th><th>our samples</th><th>others</th><th>floor</th></tr>"
    assert head in page
    assert "<th>FVD*</th><td>12.3 ± 1.5 !</td><td>99.0 ± 1.5 !</td><td>4.25 ± 0.50</td>" in page
    assert "<td>25% !</td><td>-</td><td>5% if new</td>" in page
    assert "FVD: others: only 8 videos" in page
    assert "our samples: closest to training" in page
    assert "No sign." in page
    assert page.count("<h2>Scores</h2>") == 1
    assert "Scores" not in write_report(tmp_path)


def test_scores_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    with pytest.raises(FileNotFoundError, match=r"run metrics\.py first"):
        write_report(tmp_path, "--metrics", str(tmp_path / "nowhere"))
    folder = write_metrics(tmp_path / "metrics")
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a report of metrics\.py"):
        write_report(tmp_path, "--metrics", str(folder))


def test_training_clips_are_shown_at_the_models_speed(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    (tmp_path / "frames" / "a").mkdir(parents=True)
    for index in range(8):
        Image.new("RGB", (16, 16)).save(tmp_path / "frames" / "a" / f"{index:06d}.jpg")
    assert "Training clips" in write_report(tmp_path, "--frames", str(tmp_path / "frames"))
    assert (tmp_path / "out" / "training_clips" / "000000.mp4").is_file()


def test_longer_videos_stand_there_with_their_drift(tmp_path: Path) -> None:
    write_run(tmp_path / "run", initial=None)
    assert "Longer than a clip" not in write_report(tmp_path)
    long = tmp_path / "run" / "samples"
    record = json.loads((long / "samples.json").read_text())
    record["made_by"]["frames"] = 4
    (long / "samples.json").write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match=r"run python -m tools\.drift --samples"):
        write_report(tmp_path, "--long", str(long))
    (long / "drift").mkdir()
    Image.new("RGB", (8, 8)).save(long / "drift" / "drift.png")
    (long / "drift" / "report.txt").write_text("seams 1.04x & no drift")
    page = write_report(tmp_path, "--long", str(long))
    assert "Longer than a clip" in page
    assert "4 frames each" in page
    assert "seams 1.04x &amp; no drift" in page


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.yaml: not there"):
        write_report(tmp_path)
    write_run(tmp_path / "run", initial=None)
    (tmp_path / "run" / "samples" / "000001.mp4").unlink()
    with pytest.raises(ValueError, match="not all videos are there as mp4"):
        write_report(tmp_path)
