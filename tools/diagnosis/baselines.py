"""Rules that need no understanding of video. Whoever does not beat them has learned nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.diagnosis import DiagnosisConfig
from datasets.labelled import LabelledVideo
from tools.diagnosis.clips import ClipReader
from tools.diagnosis.measures import THRESHOLD, Floats, Integers, weighted_scores
from tools.diagnosis.preparation import Videos, split
from tools.diagnosis.rows import Row

THUMBNAIL = 8  # pixels, side of the picture that the rule of one frame sees
DECAY = 0.1  # of its weights


def fixed_rows(
    videos: Sequence[str],
    labels: Integers,
    lengths: Integers,
    train_labels: Integers,
    train_lengths: Integers,
) -> list[Row]:
    """All abnormal, the most frequent class of the train list, and the length of a video alone.

    Inputs:  names (N,), labels (N,) and lengths (N,) of the test videos, in frames or seconds;
             the same (M,) of the train list
    """
    majority = float(np.mean(train_labels) >= THRESHOLD)
    share = f"{np.mean(train_labels):.0%} of the train list is abnormal"
    length, note = by_length(lengths, train_labels, train_lengths)
    found = [
        ("all abnormal", np.ones(len(labels)), ""),
        ("majority class", np.full(len(labels), majority), share),
        ("length alone", length, note),
    ]
    return [
        Row(name, (), tuple(videos), labels, values[None], trivial=True, note=text)
        for name, values, text in found
    ]


def by_length(
    lengths: Integers, train_labels: Integers, train_lengths: Integers
) -> tuple[Floats, str]:
    """Probabilities (N,) from lengths (N,), and the rule in words.

    The rule is shorter or longer than a threshold, whichever has the best F1 on the train list.
    """
    different = np.unique(train_lengths)
    if len(different) == 1:
        return np.full(len(lengths), THRESHOLD), "all videos of the train list have one length"
    between = (different[1:] + different[:-1]) / 2
    rules = [(float(limit), shorter) for limit in between for shorter in (True, False)]
    once = np.ones((1, len(train_labels)), np.int64)
    found = [
        float(weighted_scores(train_labels, _called(train_lengths, *rule), once)["f1"][0])
        for rule in rules
    ]
    limit, shorter = rules[int(np.argmax(found))]
    word = "shorter" if shorter else "longer"
    return _called(lengths, limit, shorter), f"abnormal where {word} than {limit:g}"


def _called(lengths: Integers, limit: float, shorter: bool) -> Floats:
    """Probabilities in order of length that pass 1/2 at the limit."""
    share = lengths / (lengths + limit)
    return np.asarray(1 - share if shorter else share, np.float64)


def middle_frame_row(
    videos: Sequence[str],
    labels: Integers,
    frames: Sequence[Tensor],
    train: Sequence[tuple[int, Integers, Sequence[Tensor]]],
) -> Row:
    """Logistic regression on a thumbnail of the frame in the middle of each video.

    Inputs:  names (N,), labels (N,) and middle frames, N of (3, H, W) uint8, of the test videos;
             for each seed its number, and the labels (M,) and middle frames of its labelled videos
    """
    judged = [_logistic(pixels, classes, frames) for _, classes, pixels in train]
    return Row(
        "middle frame alone",
        tuple(seed for seed, _, _ in train),
        tuple(videos),
        labels,
        np.stack(judged),
        trivial=True,
        note=f"logistic regression on {THUMBNAIL} x {THUMBNAIL} pixels",
    )


def _logistic(train: Sequence[Tensor], classes: Integers, test: Sequence[Tensor]) -> Floats:
    x, others = _thumbnails(train), _thumbnails(test)
    middle, spread = x.mean(0), x.std(0) + 0.05
    x, others = (x - middle) / spread, (others - middle) / spread
    y = torch.from_numpy(classes).double()
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weights + offset, y)
        value = fit + DECAY * weights.square().sum() / 2
        value.backward()
        return value

    search.step(loss)
    with torch.no_grad():
        return (others @ weights + offset).sigmoid().numpy()


def _thumbnails(frames: Sequence[Tensor]) -> Tensor:
    """N of (3, H, W) uint8 -> (N, D) in [0, 1]."""
    small = [F.adaptive_avg_pool2d(frame.double() / 255, THUMBNAIL) for frame in frames]
    return torch.stack(small).flatten(1)


def trivial_rows(config: DiagnosisConfig, videos: Videos, reader: ClipReader) -> list[Row]:
    """All rules, for the videos of a row: lengths in frames, labelled videos as of each seed.

    Raises:  FileNotFoundError, ValueError naming a video that cannot be read
    """
    names = tuple(shown_name(video, Path(config.data.folder)) for video in videos.test)
    labels, train_labels = _labels(videos.test), _labels(videos.train)
    lengths, train_lengths = (
        np.array([reader.count(video.path) for video in part], np.int64)
        for part in (videos.test, videos.train)
    )
    learned = []
    for seed in config.seeds:
        chosen = split(videos, config, seed).labelled
        learned.append((seed, _labels(chosen), [_middle(video, reader) for video in chosen]))
    middles = [_middle(video, reader) for video in videos.test]
    return [
        *fixed_rows(names, labels, lengths, train_labels, train_lengths),
        middle_frame_row(names, labels, middles, learned),
    ]


def shown_name(video: LabelledVideo, folder: Path) -> str:
    """How a table names a video: its place below the folder of the data set."""
    inside = video.path.is_relative_to(folder)
    return (video.path.relative_to(folder) if inside else video.path).as_posix()


def _labels(videos: Sequence[LabelledVideo]) -> Integers:
    return np.array([video.label for video in videos], np.int64)


def _middle(video: LabelledVideo, reader: ClipReader) -> Tensor:
    return reader.read(video.path, [reader.count(video.path) // 2])[0]
