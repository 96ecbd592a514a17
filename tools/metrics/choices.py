"""What is to be evaluated, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.metrics.catalogue import METRICS, Family
from tools.metrics.protocol import Protocol
from tools.metrics.sets import Generated, VideoSet
from tools.metrics.weights import WeightsOptions


@dataclass(frozen=True)
class Choices:
    """How to evaluate.

    Attributes:
        metrics        names, in the order of tables
        needs_weights  whether a network that is not at hand is an error; otherwise its metrics are
                       left out and a caution says why
        needs_scores   the same of a metric for which there are too few samples
        repeats        seeds of the choice of clips; more than 1 add a deviation over them
        the rest       as `tools.metrics.extraction.extract` takes it
    """

    metrics: Sequence[str]
    protocol: Protocol
    family: Family
    weights: WeightsOptions
    needs_weights: bool = True
    needs_scores: bool = True
    repeats: int = 1
    cache: Path | None = None
    batch_size: int = 8
    workers: int = 2


@dataclass(frozen=True)
class RealSide:
    """The real videos, and whether the generators were trained on them."""

    set: VideoSet
    is_training_set: bool = False
    held_out: VideoSet | None = None


def with_real_stride(choices: Choices, generated: Sequence[Generated]) -> Protocol:
    """The protocol with the generators' training stride in the place of real_stride 0.

    Raises:  ValueError where it is needed and not known, or not the same for all sets
    """
    protocol = choices.protocol
    compares = any(METRICS[m].needs_real and METRICS[m].unit == "clips" for m in choices.metrics)
    if protocol.real_stride or not compares:
        return protocol
    strides = {each.training_stride for each in generated}
    if None in strides:
        unknown = next(each for each in generated if each.training_stride is None)
        raise ValueError(
            f"real_stride: protocol {protocol.name} reads real clips at the stride that the "
            f"generator was trained with, and no run folder tells it for {unknown.set.path}; give "
            f"it with --set real_stride=N (1 where real and generated frames follow each other "
            f"equally fast)"
        )
    if len(strides) > 1:
        raise ValueError(
            f"real_stride: the sets were trained with different strides "
            f"({', '.join(map(str, sorted(map(int, filter(None, strides)))))}) and share one real "
            f"side; evaluate them apart, or give --set real_stride=N for all"
        )
    return replace(protocol, real_stride=int(next(iter(strides)) or 0))
