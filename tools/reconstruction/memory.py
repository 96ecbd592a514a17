"""What a reconstruction remembers between two runs of the same command in the same folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import IO, Any, cast

import torch

from configs.load import to_plain
from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.cameras.search import Found, SparsePoints
from tools.reconstruction.settings import Reconstruction
from tools.training.checkpoints import flatten
from tools.training.files import remove_partial_files, whole_file

SETTINGS, CAMERAS, FIT = "settings.json", "cameras.pt", "fit.pt"
FORMAT = 1
HARMLESS = ("output.", "quality.lpips", "quality.truth", "quality.true_poses", "cameras.threads")


class Memory:
    """Found cameras and the state of the fit, kept in the folder of a scene.

    Raises ValueError where the folder holds a scene of other frames or settings.
    """

    def __init__(self, folder: Path, settings: Reconstruction, pixels: str) -> None:
        self.folder = folder
        self.history: list[dict[str, float]] = []  # losses of every step
        self.seconds: dict[str, float] = {}  # of the stages, earlier runs included
        plain = {"format": FORMAT, "frames": pixels, "settings": to_plain(settings)}
        path = folder / SETTINGS
        # What stopped before it had cameras left nothing that a corrected command could mix with.
        if path.is_file() and any((folder / name).is_file() for name in (CAMERAS, FIT)):
            self._compare(path, plain)
        remove_partial_files(folder)
        with whole_file(path) as file:
            file.write((json.dumps(plain, indent=1) + "\n").encode())

    def cameras(self) -> Found | None:
        """The cameras that an earlier run found."""
        content = self._read(CAMERAS)
        if content is None:
            return None
        self.seconds |= content["seconds"]
        cameras = content["cameras"]
        return Found(
            None if cameras is None else Cameras(**cameras),
            SparsePoints(**content["points"]),
            Verdict(**content["verdict"]),
        )

    def keep_cameras(self, found: Found, seconds: float) -> None:
        """Keep what was found, refusals too."""
        self.seconds["cameras"] = seconds
        self._write(
            CAMERAS,
            {
                "cameras": None if found.cameras is None else dict(vars(found.cameras)),
                "points": dict(vars(found.points)),
                "verdict": {**vars(found.verdict), "figures": dict(found.verdict.figures)},
                "seconds": dict(self.seconds),
            },
        )

    def fit_state(self) -> dict[str, Any] | None:
        """The state of an earlier run's fit."""
        content = self._read(FIT)
        if content is None:
            return None
        self.history = content["history"]
        self.seconds |= content["seconds"]
        return cast(dict[str, Any], content["state"])

    def keep_fit(self, state: dict[str, Any]) -> None:
        """Keep the state of the fit, its losses and the time that it took."""
        self._write(FIT, {"state": state, "history": self.history, "seconds": dict(self.seconds)})

    def _compare(self, path: Path, now: dict[str, Any]) -> None:
        try:
            before = json.loads(path.read_text())
            old = flatten(before["settings"]) | {"frames": before["frames"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path}: damaged; delete {self.folder} to start anew, or choose another --output"
            ) from None
        new = flatten(now["settings"]) | {"frames": now["frames"]}
        changed = [
            "other frames" if key == "frames" else f"{key} {old.get(key)} -> {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith(HARMLESS)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a scene made differently ({'; '.join(changed[:4])}); choose "
                f"another --output, or delete it to start anew"
            )

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise ValueError(
                f"{path}: damaged ({reason}); delete it to do that part anew"
            ) from None
        return cast(dict[str, Any], content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with whole_file(self.folder / name) as file:
            torch.save({"format": FORMAT, **content}, cast(IO[bytes], file))
