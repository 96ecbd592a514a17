"""samples.json: how the videos of a folder were made, so that a job can go on or must refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import to_plain
from configs.schema import SampleConfig
from sample.writers import replacing, sample_path
from tools.training.environment import package_versions

RECORD_NAME = "samples.json"


@dataclass(frozen=True)
class Source:
    """Which weights the videos come from."""

    method: str
    step: int  # training step of the weights
    sha256: str  # of the weights themselves, see `content_hash`


@dataclass(frozen=True)
class Parts:
    """How videos are put together, which tells where to look for breaks in long ones."""

    clip_frames: int  # of the clips that the model was trained on
    frames: int  # of a video
    seams: list[int]  # the first frame of every part but the first


def video_name(index: int) -> str:
    """The name of video `index`, without a suffix: 000042."""
    return f"{index:06d}"


def missing_videos(folder: Path, config: SampleConfig) -> list[int]:
    """The videos that still lack a file in one of the formats asked for."""
    return [
        index
        for index in range(config.count)
        if not all(sample_path(folder, video_name(index), each).exists() for each in config.formats)
    ]


def check_record(folder: Path, made_by: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError when `folder` holds videos that were made in another way.

    Inputs:  defaults, those of the method's `sampling` settings
    """
    path = folder / RECORD_NAME
    if not any(folder.glob("[0-9]" * 6 + "*")):
        return  # a job that failed before its first video leaves only its record
    if not path.is_file():
        raise ValueError(
            f"{folder}: holds numbered files but no {RECORD_NAME}, so it cannot be told how "
            f"they were made; choose another folder with output=FOLDER"
        )
    try:
        earlier = json.loads(path.read_text())["made_by"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not a record of samples; delete it with its videos") from None
    if isinstance(earlier, dict) and isinstance(earlier.get("sampling"), dict):
        # Records from before a choice was there: its default is what was done then.
        earlier["sampling"] = {**defaults, **earlier["sampling"]}
    differences = _differences(earlier, made_by)
    if differences:
        raise ValueError(
            f"{folder}: holds videos made with other settings ({'; '.join(differences)}); "
            f"choose another folder with output=FOLDER, or delete this one"
        )


def write_record(
    folder: Path,
    config: SampleConfig,
    made_by: dict[str, Any],
    device: str,
    complete: bool,
    parts: Parts | None = None,
) -> None:
    """Write samples.json: what decides the pixels, the seed of every video, and versions.

    `parts` none: what the folder's record says of them, if there is one.
    """
    content = {
        "made_by": made_by,
        "parts": asdict(parts) if parts else _recorded_parts(folder / RECORD_NAME),
        "checkpoint": config.checkpoint,
        "complete": complete,
        "device": device,
        "versions": package_versions(),
        "count": config.count,
        "formats": list(config.formats),
        "videos": {video_name(index): config.seed + index for index in range(config.count)},
    }
    with replacing(folder / RECORD_NAME) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


def made_by(config: SampleConfig, source: Source, precision: str) -> dict[str, Any]:
    """Everything that decides what the videos look like; the number of videos, the batches,
    the formats and the number of processes do not."""
    settings = to_plain(config)
    return {
        "method": source.method,
        "step": source.step,
        "weights_sha256": source.sha256,
        "ema": config.ema,
        "seed": config.seed,
        "fps": config.fps,
        "frames": config.frames,
        "precision": precision,
        "sampling": settings["sampling"],
    }


def _recorded_parts(path: Path) -> Any:
    """Null where there is no record, or one from before they were told."""
    try:
        return json.loads(path.read_text()).get("parts")
    except (OSError, ValueError, AttributeError):
        return None


def content_hash(networks: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The SHA-256 of weights by network and parameter name, in hexadecimal digits.

    Exported weights and the checkpoint they are from have the same one.
    """
    digest = hashlib.sha256()
    for network, parameters in sorted(networks.items()):
        for name, tensor in sorted(parameters.items()):
            digest.update(f"{network}/{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()


def _differences(earlier: Any, now: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines such as `seed: 0 there, 5 now`, for nested settings too."""
    if not isinstance(earlier, dict):
        return [f"{prefix or 'record'}: unreadable there"]
    found = []
    for key in sorted({*earlier, *now}):
        there, here = earlier.get(key), now.get(key)
        if isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{key}.")
        elif there != here:
            found.append(f"{prefix}{key}: {_short(there)} there, {_short(here)} now")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
