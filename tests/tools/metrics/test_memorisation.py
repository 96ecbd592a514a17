"""Copies of training clips are found, also disguised ones, and what is new is left in peace."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datasets.video_io import iterate_frames, write_video
from tools.metrics.closest_pairs import search, write_contact_sheet
from tools.metrics.extractors.untrained import UntrainedExtractor
from tools.metrics.features import Features
from tools.metrics.levelled import LevelledExtractor, levelled
from tools.metrics.memorisation import Memorisation, find_nearest
from tools.metrics.nearest import chance_of_at_least, nearest, video_weights, weighted_quantile
from tools.metrics.pixel_match import Match, best_match, shared_picture, thumbnails
from tools.metrics.protocol import Protocol
from tools.metrics.sets import open_set
from tools.training.runtime import Runtime

CPU = torch.device("cpu")
FRAMES, STRIDE, SIZE = 8, 3, 32
PROTOCOL = Protocol(clip_frames=FRAMES, real_stride=STRIDE, frame_size=SIZE)
TRAINING, LENGTH = 12, 60


# ---------------------------------------------------------------- the search


def features(values: Tensor, groups: Sequence[int] | None = None) -> Features:
    owners = torch.arange(len(values)) if groups is None else torch.tensor(groups)
    names = [f"video{k}" for k in range(int(owners.max()) + 1)]
    return Features({"features": values}, owners, names, [[k] for k in range(len(values))])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_equals_a_plain_search_in_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = random(23, 5).double(), random(31, 5, seed=1).double()
    owners = torch.arange(31) % 4
    plain = torch.cdist(queries, bank)
    plain[owners[:23, None] == owners[None]] = math.inf
    monkeypatch.setattr("tools.metrics.nearest.BLOCK", 31 * 4)
    distances, rows = nearest(queries, bank, owners[:23], owners)
    assert torch.equal(rows, plain.argmin(dim=1))
    torch.testing.assert_close(distances, plain.min(dim=1).values)


def test_an_exact_copy_has_distance_0_far_from_the_origin() -> None:
    values = random(50, 8) + 1e4
    found = find_nearest(features(values), features(values[[7, 31]]))
    assert [pair.training for pair in found.pairs] == ["video7", "video31"]
    assert [pair.distance for pair in found.pairs] == [0, 0]


def test_distances_are_root_mean_squares_in_training_deviations() -> None:
    """Whatever the units: one deviation away in every feature is a distance of 1."""
    values = torch.tensor([[-1.0, -100.0], [1.0, 100.0], [-1.0, 100.0], [1.0, -100.0]])
    found = find_nearest(features(values), features(values[:1] + torch.tensor([[-1.0, -100.0]])))
    assert found.pairs[0].distance == pytest.approx(1)
    assert found.reference.tolist() == pytest.approx(4 * [math.sqrt(2)])
    assert found.ratio_of_medians == pytest.approx(math.sqrt(0.5))


def test_the_own_video_does_not_count_as_train_to_train() -> None:
    """Two clips of a video that are alike would make every copy look ordinary."""
    values = torch.cat([random(6, 4), random(6, 4) + 1e-4])
    found = find_nearest(features(values, [*range(6), *range(6)]), features(values[:2]))
    assert float(found.reference.min()) > 0.1
    assert float(found.same_video.max()) < 1e-3
    assert [pair.distance for pair in found.pairs] == [0, 0]
    assert [pair.quantile for pair in found.pairs] == [0, 0]
    assert len(found.nearer_than_all) == 2


def test_a_mirrored_copy_is_found_where_mirrored_clips_are_given() -> None:
    real, mirrored = features(random(9, 6)), features(random(9, 6, seed=1))
    fake = features(mirrored.values[[4]])
    found = find_nearest(real, fake, flipped=mirrored)
    assert (found.pairs[0].training, found.pairs[0].flipped) == ("video4", True)
    assert found.pairs[0].distance == 0
    assert find_nearest(real, fake).pairs[0].distance > 0.3


def test_videos_weigh_the_same_however_many_clips_they_have() -> None:
    weights = video_weights(torch.tensor([0, 0, 0, 1]))
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    values = torch.tensor([1.0, 2.0, 3.0, 9.0])
    assert weighted_quantile(values, weights, 0.5) == 3
    assert weighted_quantile(values, weights, 0.51) == 9
    assert weighted_quantile(values, weights, 0.0) == 1


def test_independent_samples_land_where_training_lands() -> None:
    """As many below a percentile as it says, and the chance of that is no surprise."""
    real, fake = features(random(600, 12)), features(random(900, 12, seed=1))
    found = find_nearest(real, fake)
    assert found.share_below(0.05) == pytest.approx(0.05, abs=0.025)
    assert found.share_below(0.01) == pytest.approx(0.01, abs=0.012)
    assert found.ratio_of_medians == pytest.approx(1, abs=0.03)
    assert found.chance > 0.01
    assert found.verdict().startswith("No sign of copying")


def test_clips_of_one_video_are_no_independent_evidence() -> None:
    """Twenty clips of one video of ten near training tell as much as that one video."""
    real, fake = random(40, 6), random(10, 6, seed=1) + 5
    fake[3] = real[7]
    many = features(fake.repeat_interleave(20, dim=0), [k // 20 for k in range(200)])
    single, repeated = (find_nearest(features(real), each) for each in (features(fake), many))
    assert single.chance == pytest.approx(repeated.chance)
    assert repeated.chance > 0.2


def test_chance_is_that_of_simulated_draws() -> None:
    draws = torch.rand(20_000, 30, generator=torch.Generator().manual_seed(0))
    others, new = draws[:, :20], draws[:, 20:]
    limit = others.kthvalue(2, dim=1).values
    below = (new < limit[:, None]).sum(dim=1)
    for count in (0, 1, 2, 4):
        share = float((below >= count).double().mean())
        assert chance_of_at_least(count, 10, 2, 20) == pytest.approx(share, abs=0.012)


def test_a_video_of_several_copies_is_named_once() -> None:
    values = random(9, 6)
    found = find_nearest(features(values), features(values[:4], [0, 0, 0, 1]))
    match = Match(correlation=1.0, frames=[0], flipped=False)
    found = replace(found, pairs=[replace(pair, match=match) for pair in found.pairs])
    assert "4 of those looked at" in found.verdict()
    assert "(video0, video1)" in found.verdict()


def test_too_few_training_videos_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2 training videos"):
        find_nearest(features(random(3, 2), [0, 0, 0]), features(random(2, 2)))


# ---------------------------------------------------------------- pixels


def test_a_clip_is_found_at_its_offset_mirrored_and_changed_in_light() -> None:
    video = torch.from_numpy(simulated(3, 40)).permute(0, 3, 1, 2)
    pattern = [0, 3, 6, 9]
    shared = shared_picture([thumbnails(video[::7])])
    clip = video[[17 + k for k in pattern]]
    for changed, mirrored in (
        (clip, False),
        (clip.flip(-1), True),
        ((clip.float() * 0.7 + 30).to(torch.uint8), False),
    ):
        match = best_match(
            thumbnails(changed), thumbnails(video), pattern, torch.zeros_like(shared), flips=True
        )
        assert match is not None
        assert list(match.frames) == [17, 20, 23, 26]
        assert match.flipped == mirrored
        assert match.correlation > 0.999
    short = best_match(thumbnails(clip), thumbnails(video[:9]), pattern, shared, flips=True)
    assert short is None


def test_levelled_clips_do_not_know_their_brightness() -> None:
    clips = torch.from_numpy(np.stack([simulated(1, 4), simulated(2, 4)])).permute(0, 1, 4, 2, 3)
    darker = (clips.float() * 0.6 + 20).round().to(torch.uint8)
    difference = (levelled(clips).float() - levelled(darker).float()).abs()
    assert float(difference.mean()) < 1
    assert float((clips.float() - darker.float()).abs().mean()) > 10


def test_a_mirroring_extractor_is_another_extractor() -> None:
    plain = UntrainedExtractor(CPU, 4)
    straight, mirrored = LevelledExtractor(plain), LevelledExtractor(plain, mirrored=True)
    clip = torch.from_numpy(simulated(1, 4)).permute(0, 3, 1, 2)[None]
    torch.testing.assert_close(straight(clip.flip(-1)), mirrored(clip))
    names = {each.name for each in (plain, straight, mirrored)}
    assert len(names) == len({e.fingerprint for e in (plain, straight, mirrored)}) == 3


# ---------------------------------------------------------------- failure injection


@lru_cache
def simulated(seed: int, frames: int) -> np.ndarray:
    """(frames, SIZE, SIZE, 3) uint8: waves of many colours that wander under a lit, round rim."""
    choices = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    place = (
        np.stack([x, y], axis=-1)
        - np.outer(np.arange(frames), choices.normal(0, 0.02, 2))[:, None, None]
    )
    waves = choices.normal(0, 9, (2, 6))
    phases, colours = choices.uniform(0, 2 * np.pi, 6), choices.normal(0, 25, (6, 3))
    texture = np.cos(place @ waves + phases) @ colours + choices.uniform(80, 160, 3)
    light = np.clip(1.2 - 2.5 * (x**2 + y**2), 0, 1)[..., None]
    return (texture * light).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    for seed in range(TRAINING):
        np.savez(folder / f"video{seed}.npz", video=simulated(seed, LENGTH))
    return folder


def copied(seed: int, start: int) -> np.ndarray:
    """A training clip, from any frame on."""
    return simulated(seed, LENGTH)[start : start + FRAMES * STRIDE : STRIDE]


def encoded(frames: np.ndarray, folder: Path) -> np.ndarray:
    write_video(folder / "encoded.mp4", frames, 8, crf=28)
    return torch.stack(list(iterate_frames(folder / "encoded.mp4"))).permute(0, 2, 3, 1).numpy()


def brighter(frames: np.ndarray) -> np.ndarray:
    return (frames.astype(np.int64) + 40).clip(0, 255).astype(np.uint8)


DISGUISES: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "exact": lambda frames, folder: frames,
    "encoded": encoded,
    "mirrored": lambda frames, folder: frames[:, :, ::-1],
    "brighter": lambda frames, folder: brighter(frames),
    "all": lambda frames, folder: encoded(brighter(frames[:, :, ::-1]), folder),
}


def searched(training: Path, fake: Path, clips: Sequence[np.ndarray]) -> Memorisation:
    fake.mkdir()
    for index, frames in enumerate(clips):
        np.savez(fake / f"{index:06d}.npz", video=frames)
    return search(
        open_set(fake),
        open_set(training),
        PROTOCOL,
        UntrainedExtractor(CPU, FRAMES),
        flips=True,
        cache=None,
        runtime=Runtime(CPU),
        workers=0,
    )


@pytest.fixture(scope="module")
def new() -> list[np.ndarray]:
    """Clips of organs that no training video shows."""
    return [simulated(1000 + k, FRAMES * STRIDE)[::STRIDE] for k in range(9)]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_among_new_clips_are_found(
    training: Path, new: list[np.ndarray], tmp_path: Path, disguise: str
) -> None:
    origins = {2: (5, 7), 6: (0, 31), 8: (9, 14)}  # place among the clips: video, first frame
    clips = list(new)
    for place, origin in origins.items():
        clips[place] = DISGUISES[disguise](copied(*origin), tmp_path)
    found = searched(training, tmp_path / "fake", clips)
    assert {pair.generated for pair in found.copies} == {f"{place:06d}" for place in origins}
    assert found.verdict().startswith("COPIES: of 9 generated clips, 3 ")
    for place, (video, start) in origins.items():
        pair = found.pairs[place]
        assert pair.training == f"video{video}"
        assert pair.match is not None
        assert abs(pair.match.frames[0] - start) <= 3  # where motion is slow
        assert pair.match.flipped == (disguise in ("mirrored", "all"))


def test_new_clips_are_not_called_copies(
    training: Path, new: list[np.ndarray], tmp_path: Path
) -> None:
    found = searched(training, tmp_path / "fake", new)
    assert not found.copies
    assert not found.nearer_than_all
    assert found.chance > 0.05
    sentence = found.verdict()
    assert sentence.startswith("No sign of copying")
    assert "With 12 training videos the 5th percentile is hardly more" in sentence
    assert "9 generated clips cannot show copying that is rarer than about 1 in 3" in sentence
    plain = json.loads(json.dumps(found.to_plain()))
    assert plain["share_below_5th_percentile"] == found.share_below(0.05)
    assert plain["caveat"] == "untrained features - not comparable with published numbers"
    assert len(plain["pairs"]) == 9


def test_a_sheet_shows_the_closest_pairs(
    training: Path, new: list[np.ndarray], tmp_path: Path
) -> None:
    found = searched(training, tmp_path / "fake", [*new[:3], copied(4, 11)])
    real, fake = open_set(training).sources, open_set(tmp_path / "fake").sources
    write_contact_sheet(tmp_path / "sheet.png", found, real, fake, count=2)
    with Image.open(tmp_path / "sheet.png") as image:
        two = np.asarray(image.convert("RGB")).astype(int)
    write_contact_sheet(tmp_path / "sheet.png", found, real, fake, count=1)
    with Image.open(tmp_path / "sheet.png") as image:
        one = image.size
    assert two.shape[1] == one[0]
    assert two.shape[0] > one[1]
    # The copy and its original, one above the other, are the same pixels.
    rows = two[:, 4 : 4 + 96]
    top = next(
        y
        for y in range(len(rows) - 200)
        if (rows[y : y + 96] == rows[y + 100 : y + 196]).all() and rows[y : y + 96].std() > 10
    )
    assert top > 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_second_look_is_not_needed_for_numbers(training: Path) -> None:
    """What the search found stays; the look only adds to the closest pairs."""
    found = find_nearest(features(random(20, 3)), features(random(5, 3, seed=1)))
    assert replace(found, reference_matches=[]).to_plain() == found.to_plain()
    assert not found.copies
