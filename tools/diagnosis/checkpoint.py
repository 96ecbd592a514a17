"""The files of a seed: where it goes on from after a stop, and what it leaves when it is done."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from configs.diagnosis import DiagnosisConfig
from configs.load import to_plain
from tools.diagnosis.learner import Learner
from tools.training.checkpoints import flatten
from tools.training.files import remove_partial_files, whole_file
from tools.training.runtime import Runtime

FORMAT = 1  # raised when the content changes its meaning
CHECKPOINT, RESULT, NETWORK = "checkpoint.pt", "result.json", "classifier.pt"

# Settings that may differ between the parts of a seed's training, and between seeds.
HARMLESS = {
    "output",
    "seeds",
    "keep_weights",
    "report",
    "data.workers",
    "data.memory_mib",
    "train.log_every",
    "train.save_every",
    "evaluate.batch_size",
}

logger = logging.getLogger(__name__)


class SeedFiles:
    """The folder of one seed.

    `digest` stands for the videos that it learns from: another one is refused.
    """

    def __init__(self, config: DiagnosisConfig, seed: int, digest: str, runtime: Runtime) -> None:
        self.config, self.seed, self.digest, self.runtime = config, seed, digest, runtime
        self.folder = Path(config.output) / f"seed_{seed}"
        self._saved_step = -1

    def is_finished(self) -> bool:
        """Whether the seed is done. Raises:  ValueError when it was done with other settings"""
        path = self.folder / RESULT
        if not path.is_file():
            return False
        try:
            result = json.loads(path.read_text())
            settings, digest = result["settings"], result["videos_digest"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}: not the result of a seed; delete it to train the seed anew"
            ) from None
        self._compare(path, settings, digest)
        return True

    def load(self, learner: Learner) -> dict[str, Any]:
        """Go on from the checkpoint, if there is one; what else was saved with it.

        Raises:  ValueError when it is damaged or of other settings
        """
        path = self.folder / CHECKPOINT
        if self.runtime.is_main:
            remove_partial_files(self.folder)
        there = path.is_file()
        self.runtime.check_equal(
            int(there),
            f"the processes see different files in {self.folder}; it must lie on a disk that "
            "all machines share",
        )
        if not there:
            return {}
        saved = read_saved(path)
        self._compare(path, saved["settings"], saved["videos_digest"])
        if saved["world_size"] != self.runtime.world_size and self.runtime.is_main:
            logger.warning(
                "number of processes changed since %s: %d -> %d; sums round differently",
                path,
                saved["world_size"],
                self.runtime.world_size,
            )
        try:
            learner.load(saved["learner"])
        except (RuntimeError, KeyError, ValueError):
            raise ValueError(
                f"{path}: does not fit these settings; delete it to train the seed anew"
            ) from None
        self._saved_step = learner.step
        logger.info("seed %d: going on from step %d", self.seed, learner.step)
        return dict(saved["beside"])

    def save(self, learner: Learner, beside: Mapping[str, Any]) -> None:
        """Save now, unless this step is already saved; the main process does."""
        if learner.step == self._saved_step or not self.runtime.is_main:
            return
        self._saved_step = learner.step
        content = {
            "format": FORMAT,
            "settings": to_plain(self.config),
            "videos_digest": self.digest,
            "world_size": self.runtime.world_size,
            "learner": learner.state(),
            "beside": dict(beside),
        }
        write_torch(self.folder / CHECKPOINT, content)

    def finish(self, learner: Learner, result: Mapping[str, Any]) -> None:
        """Write the trained network and the result, and drop the checkpoint."""
        if self.config.keep_weights:
            network = learner.average.networks["classifier"].state_dict()
            content = {"format": FORMAT, "settings": to_plain(self.config), "classifier": network}
            write_torch(self.folder / NETWORK, content)
        text = {"videos_digest": self.digest, "settings": to_plain(self.config), **result}
        with whole_file(self.folder / RESULT) as file:
            file.write((json.dumps(text, indent=1) + "\n").encode())
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _compare(self, path: Path, settings: Mapping[str, Any], digest: str) -> None:
        before, now = flatten(settings), flatten(to_plain(self.config))
        changed = [
            f"{key} {before.get(key)} -> {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in HARMLESS
        ]
        if not changed and digest != self.digest:
            changed = ["the videos that it learns from"]
        if changed:
            raise ValueError(
                f"{path}: the seed was begun with other settings: {'; '.join(changed)}; undo the "
                "change or choose another `output`"
            )


def read_saved(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; nothing in it is run.

    Raises:  ValueError in one line for a damaged or foreign file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or "learner" not in content:
            raise KeyError("format")
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
    ):
        raise ValueError(
            f"{path}: damaged, or of another version; delete it to train the seed anew"
        ) from None
    return cast("dict[str, Any]", content)


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """A file of torch.save, whole or absent."""
    with whole_file(path) as file:
        torch.save(dict(content), cast(IO[bytes], file))
