"""What is found in a folder, in a run and in the data that it trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datasets.image_io import write_image
from datasets.sources import ArrayFile, FrameFolder, VideoFile
from datasets.video_io import write_video
from tools.metrics.sets import open_generated, open_real, open_set

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def write(folder: Path, *names: str) -> Path:
    """Videos by their names: the suffix is the format, `.png/` and `.jpg/` are frame folders."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez_compressed(path, video=FRAMES)
        elif path.suffix == ".npy":
            np.save(path, FRAMES)
        elif path.suffix in (".png", ".jpg"):
            path.with_suffix("").mkdir()
            for k, frame in enumerate(FRAMES):
                image = torch.from_numpy(frame).permute(2, 0, 1)
                write_image(path.with_suffix("") / f"{k}{path.suffix}", image)
        else:
            write_video(path, FRAMES, fps=8)
    return folder


def write_samples(folder: Path, step: int = 100, complete: bool = True, **more: Any) -> Path:
    """A folder as sampling leaves it, with its contact sheet."""
    write(folder, "000000.mp4", "000001.mp4")
    write_image(folder / "contact_sheet.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    videos = {"000000": 0, "000001": 1}
    record = {"made_by": {"step": step}, "complete": complete, "videos": videos, **more}
    (folder / "samples.json").write_text(json.dumps(record))
    return folder


def write_run(folder: Path, data: Path | str, **data_settings: Any) -> Path:
    """A run folder with its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "method_name": "toy",
        "clip": {"frames": 16, "size": 64, "frame_interval": 3},
        "data": {"folder": str(data), "list": None, "layout": "auto", **data_settings},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_videos_of_every_kind_make_a_set(tmp_path: Path) -> None:
    write(tmp_path, "v10.mp4", "v9.png", "deep/v2.npz", "v1.gif.npy")
    found = open_set(tmp_path)
    kinds = [(source.name, type(source)) for source in found.sources]
    assert kinds == [
        ("deep/v2", ArrayFile),
        ("v1.gif", ArrayFile),
        ("v9", FrameFolder),
        ("v10", VideoFile),
    ]
    assert found.kind == "mp4, npy, npz, png"
    assert len(found) == 4
    assert "1 mp4, 1 npy, 1 npz, 1 png" in found.remarks[0]


def test_a_video_in_several_formats_counts_once_as_its_exact_pixels(tmp_path: Path) -> None:
    write(tmp_path, "a.mp4", "a.png", "a.npz", "b.mp4", "b.png", "c.mp4", "c.jpg", "d.mp4")
    found = open_set(tmp_path)
    kept = [(source.name, source.container()) for source in found.sources]
    assert kept == [("a", "npz"), ("b", "png"), ("c", "mp4"), ("d", "mp4")]
    assert any("png is read" in remark for remark in found.remarks)
    assert any("npz is read" in remark for remark in found.remarks)


def test_samples_without_their_contact_sheet(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "made")
    write(folder, "000002.mp4")  # of an earlier, larger job
    found = open_set(folder)
    assert [source.name for source in found.sources] == ["000000", "000001"]
    assert found.record is not None
    assert found.record["made_by"] == {"step": 100}


def test_arrays_alone_beside_a_contact_sheet(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "made")
    for video in folder.glob("*.mp4"):
        video.unlink()
    write(folder, "000000.npz", "000001.npz")
    assert open_set(folder).kind == "npz"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no video files, folders of frames or arrays"),
        (["a.mp4"], r"only one video in it \(a\.mp4\); a set needs at least two"),
        (["a.mp4", "a.npz"], r"only one video in it"),
    ],
)
def test_too_few_videos(tmp_path: Path, names: list[str], message: str) -> None:
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        open_set(tmp_path)


def test_what_is_no_folder_of_videos(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder or list"):
        open_set(tmp_path / "nowhere")
    write(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4: one file; name a folder"):
        open_set(tmp_path / "a.mp4")


def test_arrays_of_other_things_are_no_videos(tmp_path: Path) -> None:
    write(tmp_path, "a.mp4", "b.mp4")
    np.save(tmp_path / "poses.npy", np.zeros((4, 4)))
    np.savez(tmp_path / "labels.npz", labels=np.zeros(3))
    assert [source.name for source in open_set(tmp_path).sources] == ["a", "b"]
    (tmp_path / "c.npz").write_bytes(b"damaged")  # stays, so that its reader says so
    assert [source.name for source in open_set(tmp_path).sources] == ["a", "b", "c"]


def test_a_list_is_a_set(tmp_path: Path) -> None:
    write(tmp_path, "a.mp4", "b.png", "c.mp4")
    listing = tmp_path / "test.txt"
    listing.write_text("a.mp4\nb/0.png\nb/2.png\n")
    found = open_real(listing)
    assert [(source.name, source.count()) for source in found.sources] == [("a", 3), ("b", 2)]


def test_any_folder_of_videos_can_be_generated(tmp_path: Path) -> None:
    found = open_generated(write(tmp_path / "peer", "a.mp4", "b.mp4"))
    assert (found.training_stride, found.real, found.step) == (None, None, None)
    assert found.label == "peer"


def test_a_run_folder_tells_samples_data_and_stride(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "r1.png", "r2.png", "r3.mp4")
    run = write_run(tmp_path / "runs" / "x", data)
    write_samples(run / "samples" / "step_00000900", 900)
    newest = write_samples(run / "samples" / "step_00001000", 1000)
    write_samples(run / "samples" / "step_00002000", 2000, complete=False)
    for path in (run, run / "samples", newest):
        found = open_generated(path)
        assert found.set.path == newest
        assert (found.step, found.training_stride) == (1000, 3)
        assert found.real is not None
        assert [source.name for source in open_real(found.real).sources] == ["r1", "r2", "r3"]
    assert open_generated(run).label == "x, step 1000"


def test_the_layout_of_training_is_kept(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "r1.png", "r2.png", "r3.mp4")
    run = write_run(tmp_path / "run", data, layout="frames")
    write_samples(run / "samples" / "step_1")
    real = open_generated(run).real
    assert real is not None
    assert [source.name for source in open_real(real).sources] == ["r1", "r2"]


def test_the_list_of_training_is_kept(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "r1.png", "r2.png", "r3.mp4")
    (data / "train.txt").write_text("r1/0.png\nr3.mp4\n")
    run = write_run(tmp_path / "run", data, list=str(data / "train.txt"))
    write_samples(run / "samples" / "step_1")
    real = open_generated(run).real
    assert real is not None
    assert [source.name for source in open_real(real).sources] == ["r1", "r3"]


def test_samples_elsewhere_lead_to_their_run_by_the_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write(tmp_path / "data", "r1.mp4", "r2.mp4"))
    checkpoint = run / "checkpoints" / "step_100.pt"
    other = write_run(tmp_path / "other", tmp_path)  # must not be taken for it
    for named in (run, checkpoint):
        folder = write_samples(other / "samples" / named.name, checkpoint=str(named))
        found = open_generated(folder)
        assert found.real is not None
        assert found.real.settings == run / "config.yaml"


def test_a_relative_data_folder_is_looked_for_near_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "project" / "data" / "col", "r1.mp4", "r2.mp4")
    run = write_run(tmp_path / "project" / "runs" / "x", "data/col")
    write_samples(run / "samples" / "step_1")
    monkeypatch.chdir(tmp_path)
    real = open_generated(run).real
    assert real is not None
    assert len(open_real(real)) == 2


def test_a_run_whose_data_are_gone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "gone")
    write_samples(run / "samples" / "step_1")
    found = open_generated(run)  # its samples can still be compared with other videos
    assert found.training_stride == 3
    assert found.real is not None
    with pytest.raises(FileNotFoundError, match=r"gone, does not exist.*--real_path"):
        open_real(found.real)


def test_a_run_without_samples(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run: no samples .*sample\.sample --checkpoint"):
        open_generated(run)
    write_samples(run / "samples" / "step_1", complete=False)
    with pytest.raises(FileNotFoundError, match="1 unfinished sampling job"):
        open_generated(run)


def test_unfinished_or_incomplete_samples_are_refused(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "made", complete=False)
    with pytest.raises(ValueError, match=r"not finished, 0 of 2 videos are missing"):
        open_generated(folder)
    folder = write_samples(tmp_path / "made")
    (folder / "000001.mp4").unlink()
    with pytest.raises(ValueError, match=r"not finished, 1 of 2 videos are missing"):
        open_generated(folder)


def test_a_folder_of_several_sets_is_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "a")
    assert open_generated(tmp_path).set.path == tmp_path / "a"
    write_samples(tmp_path / "b")
    with pytest.raises(ValueError, match=r"holds several folders of samples \(a, b\); name one"):
        open_generated(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"videos": {}}', '{"videos": 1, "made_by": {}}'])
def test_a_foreign_samples_json(tmp_path: Path, content: str) -> None:
    write(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(ValueError, match=r"samples\.json: not a record of samples"):
        open_generated(tmp_path)


def test_a_foreign_config_yaml(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path)
    write_samples(run / "samples" / "step_1")
    (run / "config.yaml").write_text("data: 5\n")
    with pytest.raises(ValueError, match=r"config\.yaml: not the settings of a training run"):
        open_generated(run)
