"""What two runs of one command share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.pinhole import fixed_cameras
from tools.reconstruction.cameras.search import Found, no_points
from tools.reconstruction.memory import Memory
from tools.reconstruction.settings import Reconstruction


def test_cameras_and_fit_are_remembered(tmp_path: Path) -> None:
    first = Memory(tmp_path, Reconstruction(), "pixels")
    assert first.cameras() is None
    assert first.fit_state() is None
    verdict = Verdict(True, "fixed", {"motion_median": 0.01, "models": [3, 2]}, ("still",), "so")
    found = Found(fixed_cameras(8, 10, 5, 70), no_points(), verdict)
    first.keep_cameras(found, 1.5)
    first.history.append({"step": 1, "loss": 0.5})
    first.keep_fit({"values": torch.arange(3)})
    second = Memory(tmp_path, Reconstruction(), "pixels")
    again = second.cameras()
    assert again is not None
    assert again.cameras is not None
    assert torch.equal(again.cameras.world_to_camera, found.cameras.world_to_camera)
    assert again.cameras.numbers == (0, 1, 2, 3, 4)
    assert again.verdict == verdict
    state = second.fit_state()
    assert state is not None
    assert torch.equal(state["values"], torch.arange(3))
    assert second.history == first.history
    assert second.seconds["cameras"] == 1.5


def test_a_refusal_is_remembered(tmp_path: Path) -> None:
    first = Memory(tmp_path, Reconstruction(), "pixels")
    first.keep_cameras(Found(None, no_points(), Verdict(False, "refused", {}, ("no",))), 2.0)
    again = Memory(tmp_path, Reconstruction(), "pixels").cameras()
    assert again is not None
    assert again.cameras is None


def test_other_settings_or_frames_are_refused(tmp_path: Path) -> None:
    other = Reconstruction()
    other.frames.size = 64
    Memory(tmp_path, other, "pixels")
    first = Memory(tmp_path, Reconstruction(), "pixels")  # nothing was found yet
    first.keep_cameras(Found(None, no_points(), Verdict(False, "refused")), 0.0)
    with pytest.raises(ValueError, match=r"frames\.size 0 -> 64.*another --output"):
        Memory(tmp_path, other, "pixels")
    with pytest.raises(ValueError, match="other frames"):
        Memory(tmp_path, Reconstruction(), "others")
    harmless = Reconstruction()
    harmless.output.save_seconds = 5
    Memory(tmp_path, harmless, "pixels")


@pytest.mark.parametrize("name", ["settings.json", "cameras.pt", "fit.pt"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    first = Memory(tmp_path, Reconstruction(), "pixels")
    first.keep_cameras(Found(None, no_points(), Verdict(False, "refused")), 0.0)
    (tmp_path / name).write_bytes(b"PK broken")

    def read() -> None:
        memory = Memory(tmp_path, Reconstruction(), "pixels")
        memory.cameras()
        memory.fit_state()

    with pytest.raises(ValueError, match=rf"{name}: damaged"):
        read()
