"""Planted drift and planted seams are found, and nothing in videos without them."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sample.writers import write_sample
from tools import drift
from tools.steadiness.frames import FrameValues, frame_values
from tools.steadiness.sets import read_real, read_samples
from tools.steadiness.summary import Summary, summarise, windows_of
from tools.steadiness.tables import plain, text

FRAMES, WINDOW, OVERLAP = 26, 8, 2
SEAMS = (8, 14, 20)
Change = Callable[[Tensor, int], Tensor]


def video(seed: int, change: Change = lambda frame, number: frame, frames: int = FRAMES) -> Tensor:
    """A texture that moves by a pixel per frame, with a little noise: (F, 3, 16, 16) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 100 + 40 * torch.randn(1, 3, 4, 16, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")[0]
    moving = [texture[..., k : k + 16] for k in range(frames)]
    made = [
        change(frame + torch.randn(frame.shape, generator=generator), number)
        for number, frame in enumerate(moving)
    ]
    return torch.stack(made).round().clamp(0, 255).to(torch.uint8)


def summary(change: Change = lambda frame, number: frame, count: int = 8) -> Summary:
    videos = [frame_values(video(seed, change)) for seed in range(count)]
    return summarise("made up", videos, SEAMS, WINDOW)


def redder(frame: Tensor, number: int) -> Tensor:
    return frame + torch.tensor([1.5 * number, 0.0, 0.0])[:, None, None]


def blurred(frame: Tensor, number: int) -> Tensor:
    mean = torch.nn.functional.avg_pool2d(frame, 3, 1, 1, count_include_pad=False)
    return torch.lerp(frame, mean, number / FRAMES)


def jumping(frame: Tensor, number: int) -> Tensor:
    """Every second window is seen in a mirror."""
    window = sum(number >= seam for seam in SEAMS)
    return frame.flip(-1) if window % 2 else frame


# ---------------------------------------------------------------- a frame in numbers


def test_numbers_of_a_known_video() -> None:
    black, grey = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    grey[0] = 60
    values = frame_values([black, grey, black])
    assert values.mean.tolist() == [[0, 0, 0], [60, 0, 0], [0, 0, 0]]
    assert values.deviation.abs().max() == 0
    assert values.step.tolist() == [0, 20, 20]
    assert values.distance.tolist() == [0, 20, 0]
    assert values.sharpness.tolist() == pytest.approx([0, 0, 0])


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    frame = video(3)[0]
    weights = torch.tensor([0.299, 0.587, 0.114]).double()
    grey = torch.einsum("c,chw->hw", weights, frame.double())
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 15)
        for x in range(1, 15)
    ]
    expected = float(torch.stack(laplacian).var())
    assert float(frame_values([frame]).sharpness[0]) == pytest.approx(expected, rel=1e-6)


def test_a_video_has_frames() -> None:
    with pytest.raises(ValueError, match="without frames"):
        frame_values([])


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("frames", "seams", "expected"),
    [
        (20, (8, 14), ((0, 8), (8, 14), (14, 20))),
        (16, (8, 14), ((0, 8), (8, 16))),  # a short rest belongs to the window before
        (18, (8, 14), ((0, 8), (8, 14), (14, 18))),
        (8, (), ((0, 8),)),
        (20, (), ((0, 8), (8, 16), (16, 20))),
        (10, (8, 14), ((0, 10),)),
    ],
)
def test_windows_cover_the_video(
    frames: int, seams: tuple[int, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    assert windows_of(frames, seams, 8) == expected


# ---------------------------------------------------------------- what is found


def test_nothing_is_found_in_clean_videos() -> None:
    clean = summary()
    assert clean.drifting() == []
    assert clean.seams is not None
    assert not clean.seams.visible
    assert clean.seams.ratio.value == pytest.approx(1, abs=0.05)
    assert "Drift: none" in text(clean)
    assert "They cannot be told" in text(clean)


def test_a_planted_colour_drift_is_found_and_measured() -> None:
    found = summary(redder)
    assert found.drifting() == ["mean red"]
    first, last = found.windows[0], found.windows[-1]
    expected = 1.5 * (sum(last) - sum(first)) / 2
    difference = found.change["mean red"].value - summary().change["mean red"].value
    assert difference == pytest.approx(expected, abs=0.5)  # clipping at 255 takes a little
    assert "mean red" in text(found).splitlines()[-1]


def test_a_planted_loss_of_sharpness_is_found() -> None:
    found = summary(blurred)
    assert "sharpness" in found.drifting()
    assert found.change["sharpness"].value < 0.7
    assert found.wander["sharpness"] > 1.3


def test_drift_that_real_videos_have_too_is_none() -> None:
    assert summary(redder).drifting(summary(redder)) == []
    assert summary(redder).drifting(summary()) == ["mean red"]


def test_planted_seams_are_found() -> None:
    found = summary(jumping)
    assert found.seams is not None
    assert found.seams.visible
    assert found.seams.frames == SEAMS
    assert found.seams.at > found.seams.within
    assert found.drifting() == []  # neither colours nor sharpness change
    assert "They can be told" in text(found)


def test_one_video_is_measured_and_not_judged() -> None:
    one = summary(redder, count=1)
    assert one.drifting() == []
    assert "not judged" in text(one)
    content = plain(one)
    assert content["change"]["mean red"]["error"] is None
    assert json.loads(json.dumps(content, allow_nan=False))["videos"] == 1


def test_a_still_video_keeps_its_distance() -> None:
    still = [FrameValues(*[torch.ones(20, *shape) for shape in ((3,), (3,), (), (), ())])] * 4
    found = summarise("still", still, (8, 14), 8)
    assert found.change["difference to first frame"].value == 0
    assert found.seams is not None
    assert found.seams.ratio.value == pytest.approx(1)


# ---------------------------------------------------------------- folders


def write_videos(folder: Path, change: Change, count: int = 4, frames: int = FRAMES) -> None:
    folder.mkdir(parents=True)
    for seed in range(count):
        frames_ = video(seed, change, frames).permute(0, 2, 3, 1).numpy()
        write_sample(folder / f"{seed:06d}.npz", np.ascontiguousarray(frames_), "npz", 8)


def write_record(folder: Path, count: int = 4) -> None:
    record = {
        "made_by": {"method": "endora", "step": 3, "sampling": {"overlap": OVERLAP}},
        "complete": True,
        "videos": {f"{seed:06d}": seed for seed in range(count)},
    }
    (folder / "samples.json").write_text(json.dumps(record))


def unchanged(frame: Tensor, number: int) -> Tensor:
    return frame


def test_the_record_tells_the_overlap(tmp_path: Path) -> None:
    write_videos(tmp_path / "long", unchanged)
    assert read_samples(tmp_path / "long", WINDOW).seams == ()
    write_record(tmp_path / "long")
    assert read_samples(tmp_path / "long", WINDOW).seams == SEAMS
    assert read_samples(tmp_path / "long", WINDOW, overlap=4).seams == (8, 12, 16, 20, 24)
    assert read_samples(tmp_path / "long", WINDOW, count=2).videos[0].mean.shape == (FRAMES, 3)


def test_the_record_tells_clips_and_seams_whatever_made_them(tmp_path: Path) -> None:
    """Of a model in latent space, whose overlap is in other units, and of a hierarchy."""
    write_videos(tmp_path / "long", unchanged)
    write_record(tmp_path / "long")
    path = tmp_path / "long" / "samples.json"
    record = json.loads(path.read_text())
    parts = {"clip_frames": 12, "frames": FRAMES, "seams": [12, 16, 20]}
    path.write_text(json.dumps({**record, "parts": parts}))
    found = read_samples(tmp_path / "long")
    assert (found.window, found.seams) == (12, (12, 16, 20))
    assert read_samples(tmp_path / "long", WINDOW).seams == SEAMS  # what is given goes first
    path.write_text(json.dumps({**record, "parts": {**parts, "frames": FRAMES + 1}}))
    assert read_samples(tmp_path / "long", WINDOW).seams == SEAMS


def test_real_videos_are_cut_to_the_samples(tmp_path: Path) -> None:
    write_videos(tmp_path / "long", unchanged)
    write_videos(tmp_path / "real", unchanged, frames=40)
    samples = read_samples(tmp_path / "long", WINDOW, OVERLAP)
    real = read_real(tmp_path / "real", samples)
    assert len(real.videos[0]) == FRAMES
    every_second = read_real(tmp_path / "real", samples, stride=2)
    assert len(every_second.videos[0]) == 20
    assert torch.equal(every_second.videos[1].mean[3], real.videos[1].mean[6])
    with pytest.raises(ValueError, match="--stride"):
        read_real(tmp_path / "real", samples, stride=10)


def test_videos_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_videos(tmp_path / "long", unchanged)
    odd = video(9, frames=12).permute(0, 2, 3, 1).numpy()
    write_sample(tmp_path / "long" / "000009.npz", np.ascontiguousarray(odd), "npz", 8)
    with pytest.raises(ValueError, match="12 to 26 frames"):
        read_samples(tmp_path / "long", WINDOW)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["drift", *map(str, arguments)])
    return drift.main()


def test_the_command_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    write_videos(tmp_path / "long", redder)
    write_videos(tmp_path / "real", unchanged)
    write_record(tmp_path / "long")
    places = ("--samples", tmp_path / "long", "--real", tmp_path / "real")
    assert run(monkeypatch, *places, "--window", WINDOW) == 0
    shown = capsys.readouterr().out
    assert "Drift beyond that of real videos: mean red." in shown
    folder = tmp_path / "long" / "drift"
    assert (folder / "report.txt").read_text().strip() in shown
    assert (folder / "drift.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((folder / "drift.json").read_text())
    assert content["samples"]["drifting"] == ["mean red"]
    assert content["real"]["drifting"] == []
    with (folder / "drift.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["first_frame"]) for row in rows] == [0, *SEAMS]
    assert math.isclose(float(rows[-1]["mean red"]), content["samples"]["values"]["mean red"][-1])


@pytest.mark.parametrize("option", ["--videos", "--window", "--overlap", "--stride"])
def test_options_are_checked(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"{option}: at least 1, got 0"):
        run(monkeypatch, "--samples", tmp_path, option, 0)
