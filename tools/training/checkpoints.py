"""Checkpoints: all that a run needs to go on, in one file that is whole or absent."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from configs.load import to_plain
from configs.schema import RunConfig
from models.registry import method_class
from tools.training.environment import package_versions
from tools.training.files import remove_partial_files, whole_file
from tools.training.runtime import Runtime
from tools.training.state import TrainState

FORMAT = 1  # raised when the content changes its meaning
FOLDER = "checkpoints"  # inside the run folder
KEYS = {"format", "method_name", "config", "step", "networks", "ema", "optimizers", "world_size"}

# Settings that may differ between a checkpoint and the run that goes on from it, unmentioned.
HARMLESS = {
    "output",
    "data.workers",
    "train.steps",
    "train.log_every",
    "train.save_every",
    "train.keep_last",
    "train.keep_every",
    "train.preview_every",
    "train.preview_count",
    "train.compile",
    "train.sharding",
    "train.initial_weights",
}
# Settings without which the saved tensors have no place.
FIXED = {"method_name", "clip.frames", "clip.size", "train.ema_decays"}

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run: saved when due, the newest loaded, old ones removed."""

    def __init__(self, config: RunConfig, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.folder = Path(config.output) / FOLDER
        self._saved_step: int | None = None

    def load_latest(self, state: TrainState) -> bool:
        """Go on from the newest checkpoint; False when there is none.

        Raises ValueError when it is unreadable or of another model.
        """
        if self.runtime.is_main:
            remove_partial_files(self.folder)
        files = checkpoint_files(self.folder)
        newest = max(files, default=-1)
        self.runtime.check_equal(
            newest,
            f"the processes see different checkpoints in {self.folder}; "
            f"the run folder must lie on a disk that all machines share",
        )
        if newest < 0:
            return False
        saved = read_checkpoint(files[newest])
        self._compare(files[newest], saved)
        try:
            state.load(saved)
        except ValueError as error:
            raise ValueError(
                f"{files[newest]} does not fit these settings: {error}; "
                f"{_changes_hint(self._changed(saved))}, or choose another `output`"
            ) from None
        self._saved_step = state.step
        logger.info("going on from %s", files[newest])
        if self.config.train.initial_weights:
            logger.info("train.initial_weights is left aside, for this run has begun already")
        return True

    def save_if_due(self, state: TrainState) -> None:
        """Save every train.save_every steps and at the end."""
        train = self.config.train
        if state.step % train.save_every == 0 or state.step == train.steps:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Save now, unless this step is already saved. Raises OSError, the disk being full."""
        if state.step == self._saved_step:
            return
        self._saved_step = state.step
        state_now = state.state() if self.runtime.is_main or state.is_sharded else {}
        if self.runtime.is_main:
            content = {
                "format": FORMAT,
                "method_name": self.config.method_name,
                "config": to_plain(self.config),
                "world_size": self.runtime.world_size,
                "versions": package_versions(),
                **state_now,
            }
            path = self.folder / f"step_{state.step:08d}.pt"
            with whole_file(path) as file:
                torch.save(content, cast(IO[bytes], file))
            logger.info("saved %s", path)
            self._remove_old()

    def _remove_old(self) -> None:
        files = checkpoint_files(self.folder)
        train = self.config.train
        kept = set(sorted(files)[-train.keep_last :])
        for step, path in files.items():
            if step not in kept and not (train.keep_every and step % train.keep_every == 0):
                path.unlink()

    def _is_fixed(self, key: str) -> bool:
        """Whether a run cannot go on with another value: weights of the same shapes may still
        belong to another model, such as one with other attention heads or another codec."""
        section, _, name = key.partition(".")
        adjustable = method_class(self.config.method_name).adjustable
        return key in FIXED or (section == "method" and name not in adjustable)

    def _compare(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Refuse what cannot work and say what has changed."""
        changed = self._changed(saved)
        fixed = [text for key, text in changed.items() if self._is_fixed(key)]
        if fixed:
            raise ValueError(
                f"{path} is of another model: {'; '.join(fixed)}; "
                f"undo the change or choose another `output`"
            )
        if not self.runtime.is_main:
            return  # one warning is enough
        if changed:
            logger.warning("settings changed since %s: %s", path.name, "; ".join(changed.values()))
        if saved["world_size"] != self.runtime.world_size:
            logger.warning(
                "number of processes changed since %s: %d -> %d; the order of the data changes",
                path.name,
                saved["world_size"],
                self.runtime.world_size,
            )

    def _changed(self, saved: Mapping[str, Any]) -> dict[str, str]:
        before, now = flatten(saved["config"]), flatten(to_plain(self.config))
        return {
            key: f"{key} {before.get(key)} -> {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in HARMLESS
        }


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step."""
    matches = {path: re.fullmatch(r"step_(\d+)\.pt", path.name) for path in folder.glob("*.pt")}
    return {int(match[1]): path for path, match in matches.items() if match}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, its tensors on the CPU.

    Every byte is checked against the checksums inside the file, and nothing but plain values and
    tensors is accepted, so a file from elsewhere cannot run code.
    Raises FileNotFoundError, or ValueError in one line for a damaged or foreign file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path}: damaged, or no checkpoint: {_reason(error)}; {_way_on(path)}"
        ) from None
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ValueError(
            f"{path}: a PyTorch file, but no checkpoint of this project; original Endora or Latte "
            f"weights are converted by `python -m tools.import_checkpoint`"
        )
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path}: checkpoint format {content['format']}, this version reads {FORMAT}"
        )
    return content


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _changes_hint(changed: Mapping[str, str]) -> str:
    return f"undo the change ({'; '.join(changed.values())})" if changed else "undo the change"


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _way_on(path: Path) -> str:
    others = checkpoint_files(path.parent)
    earlier = [step for step, other in others.items() if other != path]
    if not earlier:
        return "delete it to start from the beginning"
    return f"delete it to go on from {others[max(earlier)].name}"
