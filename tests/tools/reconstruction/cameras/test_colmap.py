"""COLMAP in a process of its own: whatever it does, the caller gets a result or a sentence."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.image_io import read_image
from tools.reconstruction.cameras import colmap as module
from tools.reconstruction.cameras.colmap import Colmap, ColmapError, run_worker, seen_size


def frames(count: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator).to(torch.uint8)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_small_frames_are_enlarged_and_large_ones_shrunk() -> None:
    assert seen_size(128, 128) == (256, 256)
    assert seen_size(100, 200) == (256, 512)
    assert seen_size(320, 480) == (320, 480)
    assert seen_size(512, 640) == (512, 640)
    assert seen_size(1024, 1280) == (512, 640)
    assert seen_size(300, 3000) == (256, 2560)


def test_an_abort_is_a_sentence(tmp_path: Path) -> None:
    code = "import os, sys; print('terminate called', flush=True); os.abort()"
    with pytest.raises(ColmapError, match=r"COLMAP \(match\) was ended by SIGABRT: terminate call"):
        run_worker(python(code), tmp_path / "log", 60, "match")


def test_an_exception_is_told_by_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ColmapError, match=r"failed \(1\): RuntimeError: no database"):
        run_worker(python("raise RuntimeError('no database')"), tmp_path / "log", 60, "global")


def test_a_missing_package_names_the_way_to_it(tmp_path: Path) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'pycolmap'\")"
    with pytest.raises(ValueError, match="pip install -r requirements"):
        run_worker(python(code), tmp_path / "log", 60, "match")


def test_the_time_limit_ends_the_process_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ColmapError, match="took longer than 3 s and was stopped"):
        run_worker(python(code), tmp_path / "log", 3, "incremental")
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(process: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_pictures_and_masks_are_written_at_the_size_that_is_seen(tmp_path: Path) -> None:
    masks = torch.ones(3, 32, 32, dtype=torch.bool)
    masks[:, :, :16] = False
    colmap = Colmap(tmp_path / "work", frames(), masks)
    picture = read_image(tmp_path / "work" / "images" / "00002.png")
    mask = read_image(tmp_path / "work" / "masks" / "00002.png.png")
    assert picture.shape == mask.shape == (3, 256, 256)
    assert set(mask.unique().tolist()) == {0, 255}
    assert not mask[0, :, :128].any()
    assert float(mask[0, :, 140:].float().mean()) == 255
    assert colmap.job["focal"] == pytest.approx(128)  # 90 degrees


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "work" / "images").mkdir(parents=True)
    (tmp_path / "work" / "images" / "00099.png").touch()
    Colmap(tmp_path / "work", frames(), None)
    assert len(list((tmp_path / "work" / "images").iterdir())) == 3


def test_a_worker_that_leaves_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKER", tuple(python("pass")))
    with pytest.raises(ColmapError, match="left no result"):
        Colmap(tmp_path, frames(), None).match()


def test_no_models_are_none_and_the_job_says_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import json, sys, numpy\n"
        "job = json.load(open(sys.argv[1]))\n"
        "numpy.savez(job['output'], sizes=numpy.zeros(0, int))\n"
    )
    monkeypatch.setattr(module, "WORKER", tuple(python(code)))
    colmap = Colmap(tmp_path, frames(), None, view_known=True, seed=5, threads=1)
    assert colmap.build("global") is None
    job = json.loads((tmp_path / "global.json").read_text())
    assert (job["stage"], job["seed"], job["threads"]) == ("global", 5, 1)
    assert job["refine_focal"] is False
    assert job["masks"] == ""  # no masks were given


@pytest.mark.slow
def test_the_worker_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    code = (
        "import threading, os, time\n"
        "from tools.reconstruction.cameras.colmap_worker import end_with\n"
        "threading.Thread(target=end_with, args=(os.getppid() + 1,), daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ColmapError, match=r"failed \(1\)"):
        run_worker(python(code), tmp_path / "log", 50, "match")
    assert os.getpid()


@pytest.mark.slow
def test_the_worker_reads_matches_in_the_order_of_the_frames(tmp_path: Path) -> None:
    """A texture that moves to the left by 6 pixels a frame: so do its matches."""
    pytest.importorskip("pycolmap")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 32, 48, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic")[0]
    texture = (texture.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    video = torch.stack([texture[:, 6 * k : 6 * k + 256] for k in range(4)])
    found = Colmap(tmp_path, video, None, threads=1).match()
    assert found.features.min() > 50
    ends = np.cumsum(found.sizes)
    assert len(found.pairs) == 6
    for (first, second), end, size in zip(found.pairs, ends, found.sizes, strict=True):
        places = found.places[end - size : end]
        shift = np.median(places[:, 2:] - places[:, :2], axis=0)
        assert shift == pytest.approx([-6 * (second - first), 0], abs=0.3)
