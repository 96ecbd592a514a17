"""Rules that need no understanding of video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.diagnosis.baselines import by_length, fixed_rows, middle_frame_row
from tools.diagnosis.measures import scores

LABELS = np.repeat([1, 0], [60, 20])
NAMES = [f"{number}.mp4" for number in range(80)]


def test_length_gives_the_label_away_where_it_does() -> None:
    # The lengths of the published lists: abnormal videos are short, some are not.
    lengths = np.where(LABELS == 1, 220, 1200)
    lengths[:3] = 1500
    train_labels = np.repeat([1, 0], [102, 71])
    train_lengths = np.where(train_labels == 1, 400, 5600)
    probabilities, rule = by_length(lengths, train_labels, train_lengths)
    assert rule == "abnormal where shorter than 3000"
    assert scores(LABELS, probabilities)["accuracy"] == 0.75  # 1200 is below the threshold too
    assert scores(LABELS, probabilities)["auroc"] == pytest.approx(0.95)


def test_length_learns_its_direction() -> None:
    labels = np.array([0, 0, 1, 1])
    lengths = np.array([10, 20, 30, 40])
    probabilities, rule = by_length(lengths, labels, lengths)
    assert rule == "abnormal where longer than 25"
    assert scores(labels, probabilities)["auroc"] == 1
    probabilities, rule = by_length(lengths, 1 - labels, lengths)
    assert rule == "abnormal where shorter than 25"
    assert scores(labels, probabilities)["auroc"] == 0


def test_one_length_tells_nothing() -> None:
    lengths = np.full(80, 8)
    probabilities, rule = by_length(lengths, LABELS, lengths)
    assert "one length" in rule
    assert scores(LABELS, probabilities)["auroc"] == 0.5


def test_fixed_rules_see_no_test_labels() -> None:
    lengths = np.arange(80)
    train = np.repeat([0, 1], [30, 10])
    rows = fixed_rows(NAMES, LABELS, lengths, train, np.arange(40))
    others = fixed_rows(NAMES, 1 - LABELS, lengths, train, np.arange(40))
    for row, other in zip(rows, others, strict=True):
        assert row.trivial
        assert np.array_equal(row.probabilities, other.probabilities)
    by_name = {row.name: row for row in rows}
    assert scores(LABELS, by_name["all abnormal"].probabilities[0])["f1"] == pytest.approx(6 / 7)
    assert by_name["majority class"].probabilities.max() == 0  # most of the train list is normal
    assert by_name["majority class"].note == "25% of the train list is abnormal"


def test_one_frame_finds_colour_and_learns_of_each_seed_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 60, (80, 3, 12, 16), generator=generator, dtype=torch.uint8)
    frames = [frame + 100 * (channel == 1) for frame, channel in zip(noise, _red(), strict=True)]
    shuffled = np.random.default_rng(0).permutation(LABELS[::4])
    row = middle_frame_row(
        NAMES, LABELS, frames, [(3, LABELS[::4], frames[::4]), (5, shuffled, frames[::4])]
    )
    assert row.seeds == (3, 5)
    assert scores(LABELS, row.probabilities[0])["auroc"] == 1
    assert scores(LABELS, row.probabilities[1])["auroc"] < 1


def _red() -> list[torch.Tensor]:
    """Ones in the first channel of frames that are abnormal."""
    red = torch.tensor([1, 0, 0], dtype=torch.uint8)[:, None, None]
    return [red * int(label) for label in LABELS]
