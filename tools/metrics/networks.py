"""The networks that the metrics of an evaluation need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from configs.errors import one_line
from tools.metrics.catalogue import METRICS, Family, extractor_of
from tools.metrics.choices import Choices
from tools.metrics.extractors.registry import build_extractor
from tools.metrics.features import FeatureExtractor
from tools.metrics.frozen import FrozenExtractor
from tools.metrics.result import Caution

FROZEN = "fvd_frozen"


@dataclass(frozen=True)
class Networks:
    """Extractors by their names in the registry, and the metrics that they serve."""

    family: Family
    metrics: Sequence[str]
    extractors: Mapping[str, FeatureExtractor]

    def of(self, metric: str) -> FeatureExtractor:
        """The extractor of a metric."""
        return self.extractors[extractor_of(metric, self.family)]

    def plain(self) -> list[FeatureExtractor]:
        """All extractors."""
        return list(self.extractors.values())

    def with_frozen(self) -> list[FeatureExtractor]:
        """The same, and one of frozen clips where a metric asks for it."""
        frozen = [FrozenExtractor(self.of(FROZEN))] if FROZEN in self.metrics else []
        return [*self.plain(), *frozen]


def build_networks(choices: Choices, device: torch.device) -> tuple[Networks, list[Caution]]:
    """All networks, before a video is read, and which metrics are left out for want of one.

    Raises:  ValueError, FileNotFoundError in one line where a network is missing that is needed,
             or that the user gave weights for, or where no network is left
    """
    extractors: dict[str, FeatureExtractor] = {}
    missing: dict[str, str] = {}
    for metric in choices.metrics:
        name = extractor_of(metric, choices.family)
        if name in extractors or name in missing:
            continue
        try:
            extractors[name] = build_extractor(
                name,
                choices.weights,
                device,
                choices.protocol.clip_frames,
                METRICS[metric].kinds[0].label,
            )
        except (ValueError, FileNotFoundError) as error:
            if choices.needs_weights or name in choices.weights.given:
                raise
            missing[name] = one_line(error)
    metrics = [m for m in choices.metrics if extractor_of(m, choices.family) in extractors]
    if not metrics:
        raise ValueError(f"no metric can be computed: {next(iter(missing.values()))}")
    left_out = [
        Caution(f"{metric} is left out: {missing[extractor_of(metric, choices.family)]}")
        for metric in choices.metrics
        if metric not in metrics
    ]
    return Networks(choices.family, metrics, extractors), left_out
