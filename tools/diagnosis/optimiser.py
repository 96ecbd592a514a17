"""The optimiser of the classifier: deeper blocks learn faster, and the rate follows a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from configs.diagnosis import DiagnosisTrain
from tools.diagnosis.classifier import CLASSIFIER
from tools.diagnosis.frame_classifier import Classifier
from tools.training.rates import warmup_factor

MOMENTUM = 0.9  # of sgd


def build_optimiser(
    classifier: Classifier, projection: nn.Module | None, train: DiagnosisTrain
) -> Optimizer:
    """One group for each parameter's rate and weight decay.

    The rate of the last block is `learning_rate`, of each block before it layer_decay times that
    of the next, of what embeds another layer_decay less. The head (and the projection of
    CoMatch) has its own. Vectors and tables are not decayed.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in classifier.named_parameters():
        if name.startswith(f"{CLASSIFIER}."):
            rate = train.head_learning_rate
        else:
            below_last = max(classifier.sizes.depth - classifier.layer_of(name), 0)
            rate = train.learning_rate * train.layer_decay**below_last
        groups.setdefault((rate, _decay(name, parameter, train)), []).append(parameter)
    if projection is not None:
        for name, parameter in projection.named_parameters():
            key = (train.head_learning_rate, _decay(name, parameter, train))
            groups.setdefault(key, []).append(parameter)
    described = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if train.optimizer == "sgd":
        return torch.optim.SGD(described, momentum=MOMENTUM)
    return torch.optim.AdamW(described)


def rate_factor(step: int, steps: int, epoch_steps: float, train: DiagnosisTrain) -> float:
    """Share of the full rate at a step (the first is 0) of `steps`.

    cosine           a linear rise over warmup_steps, then (1 + cos(pi x)) / 2 down to 0
    cosine_by_epoch  the cosine stays the same for the `epoch_steps` steps of an epoch
    """
    if train.schedule == "cosine_by_epoch":
        step = math.floor(math.floor(step / epoch_steps + 1e-9) * epoch_steps + 1e-9)
    rise = warmup_factor(step, train.warmup_steps)
    if train.schedule == "constant":
        return rise
    begin = min(train.warmup_steps, steps)
    share = max(step - begin, 0) / max(steps - begin, 1)
    return rise * (1 + math.cos(math.pi * share)) / 2


def trainable(optimiser: Optimizer) -> Iterator[Tensor]:
    """All parameters of an optimiser."""
    for group in optimiser.param_groups:
        yield from group["params"]


def _decay(name: str, parameter: Tensor, train: DiagnosisTrain) -> float:
    is_table = name.endswith(("pos_embed", "time_embed", "cls_token"))
    return 0.0 if parameter.ndim < 2 or is_table else train.weight_decay
