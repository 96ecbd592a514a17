"""Small folders of arrays, evaluated with the untrained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tools.metrics import cautions
from tools.metrics.choices import Choices, RealSide, with_real_stride
from tools.metrics.evaluate import evaluate, spread
from tools.metrics.facts import caveat_of
from tools.metrics.protocol import Protocol
from tools.metrics.result import Count, Result, Score, SetFacts
from tools.metrics.sets import Generated, open_generated, open_set
from tools.metrics.weights import WeightsOptions
from tools.training.runtime import Runtime

PROTOCOL = Protocol(frame_size=0, real_stride=1, is_splits=2)
RUNTIME = Runtime(torch.device("cpu"))
CAVEAT = "untrained features - not comparable with published numbers"

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """write(seed, count=6, frames=16, size=24, noise=20): a folder of moving noisy gradients."""

    def _write(
        seed: int, count: int = 6, frames: int = 16, size: int = 24, noise: float = 20.0
    ) -> Path:
        folder = tmp_path_factory.mktemp("videos")
        random = np.random.default_rng(seed)
        for index in range(count):
            across = np.linspace(0, 120, size)[None, None, :, None]
            moving = across + 4 * np.arange(frames)[:, None, None, None]
            colour = random.integers(20, 80, (1, 1, 1, 3))
            video = moving + colour + random.normal(0, noise, (frames, size, size, 3))
            pixels = np.clip(video, 0, 255).astype(np.uint8)
            np.savez_compressed(folder / f"{index:03d}.npz", video=pixels)
        return folder

    return _write


def run(generated: list[Path], real: Path | None, metrics: str = "fvd", **changes: Any) -> Result:
    settings: dict[str, Any] = {"protocol": PROTOCOL, "cache": None, "workers": 0, **changes}
    held_out = settings.pop("held_out", None)
    training_set = settings.pop("is_training_set", False)
    choices = Choices(
        metrics=metrics.split(","),
        family="untrained",
        weights=WeightsOptions(Path("nowhere")),
        **settings,
    )
    side = real and RealSide(open_set(real), training_set, held_out and open_set(held_out))
    names = [f"set {k}" for k in range(len(generated))]
    found = evaluate([open_generated(path) for path in generated], names, side, choices, RUNTIME)
    assert found is not None
    return found


def values(found: Result) -> dict[str, list[float]]:
    return {
        kind.name: [score.value for each in found.sets if (score := found.score(each, kind))]
        for kind in found.kinds()
    }


def sentences(found: Result) -> str:
    return "\n".join(str(caution) for caution in found.cautions)


def test_a_set_has_no_distance_to_itself_and_more_noise_is_further_away(write: Write) -> None:
    real = write(0)
    result = run([real, write(1), write(1, noise=60.0)], real, "fvd,fid,kid,prdc")
    found = values(result)
    about = [each.sets for each in result.cautions if each.sentence == cautions.SAME_SET_NOTE]
    assert about == [("set 0",)]
    assert abs(found["fvd"][0]) < 1e-6
    assert abs(found["fid"][0]) < 1e-6
    assert found["precision"][0] == 1
    for metric in ("fvd", "fid", "kid"):
        assert found[metric][0] < found[metric][1] < found[metric][2]


def test_a_score_comes_with_all_that_it_is_read_with(write: Write) -> None:
    found = run([write(1, frames=20)], write(0, frames=18), "fvd,fid")
    fvd, fid = found.sets[0].scores
    assert fvd.real == Count(6, 6, "clips")
    assert fid.real == Count(6, 108, "frames")
    assert fid.fake == Count(6, 120, "frames")
    assert fvd.deviation is not None
    assert fvd.deviation > 0
    assert fvd.level is not None
    assert (fvd.level.kind, fvd.level.videos) == ("halves", 3)
    assert (fvd.extractor, fvd.comparable, fvd.caveat) == ("untrained-v1-clips", False, CAVEAT)
    assert not fvd.publishable
    described = found.extractors["untrained-v1-clips"]
    assert described["fingerprint"] == fvd.fingerprint
    assert described["provenance"]["sha256"]
    assert found.sets[0].facts.sizes == {"24x24": 6}
    assert found.sets[0].facts.containers == {"npz": 6}
    assert found.protocol["real_stride"] == 1
    assert {"git_commit", "packages", "device", "command"} <= found.environment.keys()


def test_an_inception_score_needs_no_real_videos(write: Write) -> None:
    found = run([write(1)], None, "is", protocol=replace(PROTOCOL, real_stride=0))
    score = found.sets[0].scores[0]
    assert (score.real, score.level, found.real) == (None, None, None)


def test_frozen_clips_of_a_set_without_motion_are_that_set(write: Write, tmp_path: Path) -> None:
    for index in range(4):
        frame = np.random.default_rng(index).integers(0, 255, (1, 24, 24, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{index}.npz", video=np.repeat(frame, 16, axis=0))
    still, moving = run([tmp_path, write(1)], write(0), "fvd,fvd_frozen").sets
    assert still.scores[1].extra["ratio_to_fvd"] == pytest.approx(1, abs=1e-6)
    assert abs(moving.scores[1].extra["ratio_to_fvd"] - 1) > 0.1


def test_repeats_tell_the_deviation_over_seeds_of_the_clip_choice(write: Write) -> None:
    fixed = run([write(1)], write(0, frames=16), repeats=2).sets[0].scores[0]
    free = run([write(1)], write(0, frames=40), repeats=2).sets[0].scores[0]
    assert fixed.repeats_deviation == 0  # 16 of 16 frames: nothing to choose
    assert free.repeats_deviation is not None
    assert free.repeats_deviation > 0
    assert run([write(1)], write(0)).sets[0].scores[0].repeats_deviation is None


def test_held_out_videos_are_a_row_of_their_own(write: Write) -> None:
    found = run([write(1, noise=80.0)], write(0), held_out=write(2), is_training_set=True)
    generated, held_out = found.sets
    assert held_out.held_out
    assert held_out.scores[0].value < generated.scores[0].value
    assert cautions.TRAINING_SET_NOTE not in sentences(found)
    alone = run([write(1)], write(0), is_training_set=True)
    assert cautions.TRAINING_SET_NOTE in sentences(alone)


def test_few_and_unlike_samples_are_told(write: Write) -> None:
    found = sentences(run([write(1)], write(0, count=8, frames=20), "fvd,fid,is,kid"))
    for part in (
        "FVD: no more clips on a side than the 672 dimensions of the features",
        "FVD: fewer clips than protocol default takes: 2048 generated and 2048 real",
        "FID: fewer on a side than the 2049 frames of 50 videos that are recommended",
        "FVD, IS, KID: fewer on a side than the 50 videos that are recommended",
        "FVD: different numbers of real and generated clips",
        "the stride it was trained with is not known",
    ):
        assert part in found, part
    assert "in each of 2 splits" not in found  # 48 are enough
    few = sentences(run([write(1)], None, "is", protocol=replace(PROTOCOL, is_splits=8)))
    assert "IS: fewer than the 20 samples that are recommended in each of 8 splits" in few


def test_short_videos_are_dropped_and_counted(write: Write) -> None:
    folder = write(1)
    for index in (1, 4):
        np.savez(folder / f"{index:03d}.npz", video=np.zeros((9, 24, 24, 3), dtype=np.uint8))
    found = run([folder], write(0), "fvd,fid")
    fvd, fid = found.sets[0].scores
    assert (fvd.fake.videos, fid.fake.videos) == (4, 6)
    assert "2 of 6 generated videos are too short for a clip" in sentences(found)
    assert "(001, 004)" in sentences(found)


def test_other_sizes_are_told_and_refused_where_frames_stay_as_stored(write: Write) -> None:
    sets = [write(1, size=16)], write(0)
    found = run(*sets, protocol=replace(PROTOCOL, frame_size=16))
    assert "different sizes of frames as stored, real 24x24 and generated 16x16" in sentences(found)
    with pytest.raises(ValueError, match=r"several sizes \(16x16, 24x24\); .* --set frame_size=N"):
        run(*sets)


def test_clips_longer_than_the_videos_are_an_error_that_names_the_set(write: Write) -> None:
    folder = write(1, frames=9)
    with pytest.raises(ValueError, match=rf"{folder}.* frames; lower clip_frames with --set"):
        run([folder], write(0))


def test_limits_that_leave_one_video_are_an_error(write: Write) -> None:
    for limit, metric in (("max_fake_clips", "fvd"), ("max_real_frames", "fid")):
        protocol = replace(PROTOCOL, **{limit: 1})
        with pytest.raises(ValueError, match=f"leave 1 of 6 videos.*{limit}"):
            run([write(1)], write(0), metric, protocol=protocol)


def test_a_metric_that_cannot_be_computed_is_an_error_or_left_out(write: Write) -> None:
    protocol = replace(PROTOCOL, is_samples=50_000)
    with pytest.raises(ValueError, match="IS: the protocol wants 50000 samples"):
        run([write(1)], write(0), "fvd,is", protocol=protocol)
    found = run([write(1)], write(0), "fvd,is", protocol=protocol, needs_scores=False)
    assert [score.name for score in found.sets[0].scores] == ["fvd"]
    told = "IS is left out: the protocol wants 50000 samples and there are 96"
    assert told in sentences(found)
    with pytest.raises(ValueError, match="no score could be computed: IS is left out"):
        run([write(1)], None, "is", protocol=protocol, needs_scores=False)


def test_the_search_for_copies_finds_a_copied_set(write: Write) -> None:
    real = write(0, count=8)
    found = run([real, write(1)], real, "memorisation")
    copied, new = found.sets
    assert copied.memorisation is not None
    assert copied.scores[0].value == 1
    assert new.scores[0].value < 1
    assert "verdict" in new.scores[0].extra
    assert cautions.OTHER_SET_NOTE in sentences(found)


def test_copies_are_looked_for_at_the_speed_of_training(write: Write) -> None:
    """A protocol that reads real clips at stride 1 must not hide copies made at stride 3."""
    real = write(0, count=8, frames=48)
    copied = write(0, count=8, frames=48)
    for path in copied.iterdir():
        frames = np.load(path)["video"][::3]
        np.savez_compressed(path, video=frames)
    generated = replace(open_generated(copied), training_stride=3)
    side = RealSide(open_set(real), is_training_set=True)
    wanted = replace(choices("memorisation", real_stride=1), workers=0)
    found = evaluate([generated], ["ours"], side, wanted, RUNTIME)
    assert found is not None
    assert cautions.OTHER_SET_NOTE not in sentences(found)
    assert found.sets[0].memorisation is not None
    pair = found.sets[0].memorisation.closest[0]
    assert pair.distance == 0
    assert list(pair.training_window) == list(range(0, 48, 3))


# ---------------------------------------------------------------- what needs no videos


def generated(write: Write, stride: int | None) -> Generated:
    return replace(open_generated(write(1)), training_stride=stride)


def choices(metrics: str = "fvd", real_stride: int = 0) -> Choices:
    protocol = replace(PROTOCOL, real_stride=real_stride)
    return Choices(metrics.split(","), protocol, "untrained", WeightsOptions(Path("nowhere")))


def test_real_clips_are_read_at_the_generators_stride(write: Write) -> None:
    three = generated(write, 3)
    assert with_real_stride(choices(), [three, three]).real_stride == 3
    assert with_real_stride(choices(real_stride=1), [three]).real_stride == 1
    unknown = generated(write, None)
    assert with_real_stride(choices("fid,is,video_is"), [unknown]).real_stride == 0  # unused
    with pytest.raises(ValueError, match=r"no run folder tells it for .*--set real_stride=N"):
        with_real_stride(choices(), [three, unknown])
    with pytest.raises(ValueError, match=r"different strides \(2, 3\)"):
        with_real_stride(choices(), [three, generated(write, 2)])


@pytest.mark.parametrize(
    ("training", "real", "fake", "told"),
    [(3, 3, 1, ""), (3, 6, 2, ""), (3, 1, 1, "the strides differ"), (None, 1, 1, "is not known")],
)
def test_strides_that_do_not_match_are_told(
    training: int | None, real: int, fake: int, told: str
) -> None:
    protocol = replace(PROTOCOL, real_stride=real, fake_stride=fake)
    found = [caution.sentence for caution in cautions.of_strides("a", training, protocol)]
    assert len(found) == bool(told)
    assert all(told in sentence for sentence in found)


def test_sides_that_are_stored_in_other_ways_are_told() -> None:
    real = SetFacts("real", "r", 9, 7, ["a", "b"], {"64x64": 9}, {"png": 9}, 1.0)
    fake = SetFacts("fake", "f", 9, 9, [], {"64x64": 9}, {"mp4": 9}, 1.0)
    found = "\n".join(str(caution) for caution in cautions.of_sides(real, fake, clips=True))
    assert "2 of 9 real videos are too short for a clip" in found
    assert "fake: different kinds of file, real png and generated mp4" in found
    assert "sizes" not in found
    assert not list(cautions.of_sides(real, replace(fake, containers={"png": 9}), clips=False))


@pytest.mark.parametrize(
    ("metric", "real", "fake", "videos", "width", "publishable"),
    [
        ("fvd", 401, 2048, 401, 400, True),
        ("fvd", 400, 2048, 400, 400, False),  # rank-deficient
        ("fid", 9000, 9000, 49, 2048, False),  # frames of few videos
        ("kid", 500, 500, 50, 2048, True),  # no covariance to fit
        ("is", None, 200, 60, 200, True),
        ("is", None, 199, 60, 200, False),
    ],
)
def test_which_scores_are_worth_publishing(
    metric: str, real: int | None, fake: int, videos: int, width: int, publishable: bool
) -> None:
    assert cautions.is_publishable(metric, real, fake, videos, width) is publishable


def test_dino_features_are_told_to_favour_guided_methods() -> None:
    score = Score(
        metric="fd_dinov2",
        name="fd_dinov2",
        value=1.0,
        deviation=None,
        deviation_over="",
        real=Count(90, 9000, "frames"),
        fake=Count(90, 9000, "frames"),
        level=None,
        extractor="dinov2",
        fingerprint="",
        comparable=True,
        caveat="",
    )
    found = list(cautions.of_scores("a", [score], {"dinov2": 1024}, PROTOCOL))
    assert [str(caution) for caution in found] == [cautions.DINO_NOTE]


def test_unverified_weights_have_a_caveat_of_their_own() -> None:
    class Unverified:
        name, comparable, caveat = "i3d", False, ""

    assert "unverified weights - not comparable" in caveat_of(Unverified())  # type: ignore[arg-type]


def test_the_deviation_of_values() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
