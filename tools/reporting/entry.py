"""What a run folder and a folder of samples say of themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.training.weights import read_weights


@dataclass(frozen=True)
class Entry:
    """A run and the videos sampled from it."""

    run: Path
    samples: Path
    settings: dict[str, Any]  # the run's config.yaml
    environment: dict[str, Any]
    record: dict[str, Any]  # the samples.json

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.record["made_by"]["method"])

    @property
    def steps(self) -> int:
        """Training steps of the weights that made the videos."""
        return int(self.record["made_by"]["step"])

    @property
    def initial(self) -> str | None:
        """The weights that the run began with; none: random ones."""
        initial: str | None = self.settings["train"].get("initial_weights")
        return initial

    def videos(self, count: int) -> list[Path]:
        """Up to `count` mp4 files. Raises ValueError when the samples have none."""
        files = [self.samples / f"{name}.mp4" for name in list(self.record["videos"])[:count]]
        if not all(file.is_file() for file in files):
            raise ValueError(
                f"{self.samples}: not all videos are there as mp4; sample with formats=[mp4]"
            )
        return files


def read_entry(run: Path, samples: Path) -> Entry:
    """Read what a run folder and a folder of samples say of themselves.

    Raises FileNotFoundError, or ValueError where a file is not what its name says.
    """
    texts = {}
    for path in (run / "config.yaml", run / "environment.json", samples / "samples.json"):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; is this a run folder with its samples?")
        texts[path.name] = path.read_text()
    try:
        return Entry(
            run,
            samples,
            yaml.safe_load(texts["config.yaml"]),
            json.loads(texts["environment.json"]),
            json.loads(texts["samples.json"]),
        )
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"{run}, {samples}: a damaged file: {error}") from None


def origin(entry: Entry) -> str:
    """Where the weights come from, in a sentence that does not promise too much."""
    steps = _steps(entry.steps)
    if entry.initial is None:
        return f"Trained here from random weights, in {steps} and no more"
    text = f"Continued here for {steps} from the pre-trained weights in {entry.initial}"
    path = Path(entry.initial)
    before = read_weights(path).step if path.is_file() else 0
    if before > entry.steps:
        last = f"whose last training alone took {_steps(before)}"
        text += f", {last}: most of what it knows comes from there"
    return text


def _steps(count: int) -> str:
    return f"{count:,} step" if count == 1 else f"{count:,} steps"
