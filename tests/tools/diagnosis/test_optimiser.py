"""Rates of the classifier's parameters, and of steps."""

from __future__ import annotations

import math

import pytest
import torch

from configs.diagnosis import DiagnosisTrain
from tools.diagnosis.classifier import VideoClassifier
from tools.diagnosis.comatch import Projection
from tools.diagnosis.optimiser import build_optimiser, rate_factor, trainable


@pytest.fixture(scope="module")
def classifier() -> VideoClassifier:
    return VideoClassifier("tiny", frames=2, image_size=16)


def test_deeper_blocks_learn_faster_and_vectors_do_not_decay(classifier: VideoClassifier) -> None:
    train = DiagnosisTrain(
        learning_rate=1e-3, head_learning_rate=0.1, layer_decay=0.5, weight_decay=0.3
    )
    optimiser = build_optimiser(classifier, None, train)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    named = {name: found[id(parameter)] for name, parameter in classifier.named_parameters()}
    assert len(named) == len(found) == len(list(trainable(optimiser)))
    assert named["spatial.blocks.1.mlp.fc1.weight"] == (1e-3, 0.3)  # the last of two blocks
    assert named["spatial.blocks.0.mlp.fc1.weight"] == (5e-4, 0.3)
    assert named["temporal.0.qkv.weight"] == (5e-4, 0.3)
    assert named["spatial.patch_embed.proj.weight"] == (2.5e-4, 0.3)
    assert named["spatial.pos_embed"] == (2.5e-4, 0.0)
    assert named["time_embed"] == (2.5e-4, 0.0)
    assert named["spatial.norm.weight"] == (1e-3, 0.0)
    assert named["head.weight"] == (0.1, 0.3)
    assert named["head.bias"] == (0.1, 0.0)


def test_the_published_optimiser_is_sgd_of_one_rate(classifier: VideoClassifier) -> None:
    rate = 0.001 * 4 / 256
    train = DiagnosisTrain(
        optimizer="sgd",
        learning_rate=rate,
        head_learning_rate=rate,
        layer_decay=1.0,
        weight_decay=0.0,
    )
    (group,) = build_optimiser(classifier, Projection(64, 8), train).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1.5625e-5, 0.9, 0)
    assert isinstance(build_optimiser(classifier, None, train), torch.optim.SGD)


def test_the_rate_rises_and_falls_to_0() -> None:
    train = DiagnosisTrain(warmup_steps=4)
    rates = [rate_factor(step, 12, 1.0, train) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[8] == pytest.approx(0.5)  # half way from step 4 to 12
    assert rates[12] == pytest.approx(0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_published_rate_changes_once_an_epoch() -> None:
    train = DiagnosisTrain(warmup_steps=0, schedule="cosine_by_epoch")
    rates = [rate_factor(step, 200, 10.0, train) for step in range(200)]
    by_epoch = [(1 + math.cos(math.pi * epoch / 20)) / 2 for epoch in range(20)]
    assert rates == pytest.approx([rate for rate in by_epoch for _ in range(10)])


def test_a_constant_rate() -> None:
    train = DiagnosisTrain(warmup_steps=2, schedule="constant")
    assert [rate_factor(step, 5, 1.0, train) for step in range(4)] == [0.5, 1, 1, 1]
