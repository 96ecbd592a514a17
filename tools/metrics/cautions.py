"""Sentences that a reader of scores must know: too few samples, sides that differ, known biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tools.metrics.catalogue import MEMORISATION, METRICS
from tools.metrics.protocol import Protocol
from tools.metrics.result import Caution, Score, SetFacts

FEWEST_FRAMES = 2049  # one more than the width of the reference features of FID
FEWEST_VIDEOS = 50
FEWEST_PER_SPLIT = 20  # of an inception score: it cannot exceed this number
OTHER_SET_NOTE = (
    "memorisation looks for copies of the videos given as real, and these are not known to be "
    "what the generator was trained on"
)
SAME_SET_NOTE = "the real videos themselves stand here in the place of generated ones"
DINO_NOTE = (
    "FD-DINOv2 may favour methods whose training was guided by DINO features, as Endora's prior is"
)
TRAINING_SET_NOTE = (
    "the real videos are the training set, so a model that copies them scores best; give videos "
    "that were kept out of training with --held_out, or as --real_path"
)


def is_publishable(metric: str, real: int | None, fake: int, videos: int, width: int) -> bool:
    """Whether there are enough samples for a score worth publishing.

    Inputs:  samples of the real side (None where it has no part) and of the generated one; the
             smaller number of videos; width of the features, or samples that all splits need
    """
    samples = fake if real is None else min(real, fake)
    if videos < FEWEST_VIDEOS:
        return False
    if METRICS[metric].frechet:
        return samples > width
    return METRICS[metric].needs_real or samples >= width


def of_scores(
    set_name: str, scores: Sequence[Score], widths: dict[str, int], protocol: Protocol
) -> Iterator[Caution]:
    """What the numbers of samples say about the scores of one set."""
    for score in scores:
        metric = METRICS[score.metric]
        if score.metric == MEMORISATION:
            continue  # its verdict tells its limits
        if score.kind != metric.kinds[0]:
            continue  # one sentence for all numbers of a metric
        for sentence in _of_score(score, widths[score.extractor], protocol):
            yield Caution(sentence, (set_name,), (metric.label,))
        if score.metric == "fd_dinov2":
            yield Caution(DINO_NOTE)


def _of_score(score: Score, width: int, protocol: Protocol) -> Iterator[str]:
    """Without the numbers of the set, which stand in the table: then many sets share a sentence."""
    metric, fake, real = METRICS[score.metric], score.fake, score.real
    samples = min(fake.samples, real.samples) if real else fake.samples
    videos = min(fake.videos, real.videos) if real else fake.videos
    if metric.frechet and samples <= width:
        yield (
            f"no more {fake.unit} on a side than the {width} dimensions of the features, so its "
            f"covariance lacks rank and the value is far above that of many videos"
        )
    if score.metric == "fid" and (samples < FEWEST_FRAMES or videos < FEWEST_VIDEOS):
        yield (
            f"fewer on a side than the {FEWEST_FRAMES} frames of {FEWEST_VIDEOS} videos that are "
            f"recommended"
        )
    elif videos < FEWEST_VIDEOS:
        yield f"fewer on a side than the {FEWEST_VIDEOS} videos that are recommended"
    splits = score.extra.get("samples_per_split")
    if splits is not None and splits < FEWEST_PER_SPLIT:
        yield (
            f"fewer than the {FEWEST_PER_SPLIT} samples that are recommended in each of "
            f"{protocol.is_splits} splits, and the score cannot exceed their number"
        )
    if fake.unit == "clips" and metric.frechet:
        yield from _below_preset(score, protocol)
    if real is not None and real.samples != fake.samples:
        yield (
            f"different numbers of real and generated {fake.unit}; compare only sets that have "
            f"equal numbers"
        )


def _below_preset(score: Score, protocol: Protocol) -> Iterator[str]:
    limits = (
        ("generated", score.fake.samples, protocol.max_fake_clips),
        ("real", score.real.samples if score.real else 0, protocol.max_real_clips),
    )
    short = [f"{limit} {side}" for side, have, limit in limits if have < limit]
    if short:
        yield f"fewer clips than protocol {protocol.name} takes: {' and '.join(short)}"


def of_sides(real: SetFacts | None, fake: SetFacts, clips: bool) -> Iterator[Caution]:
    """What differs between the two folders of videos, and what was left out of them."""
    if clips and fake.dropped:
        yield Caution(_dropped(fake, "generated"), (fake.name,))
    if real is None:
        return
    if clips and real.dropped:
        yield Caution(_dropped(real, "real"))
    if set(real.containers) != set(fake.containers):
        yield Caution(
            f"different kinds of file, real {_listed(real.containers)} and generated "
            f"{_listed(fake.containers)}: compression counts as a difference",
            (fake.name,),
        )
    if set(real.sizes) != set(fake.sizes):
        yield Caution(
            f"different sizes of frames as stored, real {_listed(real.sizes)} and generated "
            f"{_listed(fake.sizes)}: scaling counts as a difference",
            (fake.name,),
        )


def of_strides(name: str, training_stride: int | None, protocol: Protocol) -> Iterator[Caution]:
    """Whether real and generated clips move at one speed."""
    real, fake = protocol.real_stride, protocol.fake_stride
    if training_stride is None:
        yield Caution(
            f"the stride it was trained with is not known, so nobody can tell whether real clips "
            f"at stride {real} move at its speed",
            (name,),
        )
    elif real != training_stride * fake:
        yield Caution(
            f"the strides differ: trained at stride {training_stride} and read at {fake}, so it "
            f"moves at {training_stride * fake} source frames a frame, and real clips at {real}",
            (name,),
        )


def _dropped(facts: SetFacts, side: str) -> str:
    names = ", ".join(list(facts.dropped)[:3]) + (", ..." if len(facts.dropped) > 3 else "")
    return (
        f"{len(facts.dropped)} of {facts.videos} {side} videos are too short for a clip and were "
        f"left out of the scores of clips ({names})"
    )


def _listed(counts: Mapping[str, int]) -> str:
    listed = list(counts)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
