"""The order of the data: a function of seed, step and global batch, and of nothing else."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.schema import ClipConfig, DataConfig
from datasets.image_io import write_image
from datasets.sampling import EndlessBatches, clip_of, endless_batches, naming_lost_workers

CLIP = ClipConfig(frames=4, size=16, frame_interval=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five videos of 12 frames; a frame tells its video and its number."""
    for video in range(5):
        (tmp_path / str(video)).mkdir()
        for k in range(12):
            frame = torch.full((3, 16, 16), 40 * video + 2 * k, dtype=torch.uint8)
            frame[..., 0] = 255
            write_image(tmp_path / str(video) / f"{k:06d}.png", frame)
    return tmp_path


def batches(folder: Path, workers: int = 0, **changes: int) -> EndlessBatches:
    data = DataConfig(folder=str(folder), images_per_clip=3, workers=workers)
    settings = {"batch_size": 4, "seed": 7, "rank": 0, "world_size": 1, "first_step": 0} | changes
    return endless_batches(data, CLIP, **settings)


def take(source: Iterator[dict[str, Tensor]], count: int) -> list[dict[str, Tensor]]:
    return [next(source) for _ in range(count)]


def assert_equal(ours: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def test_batches_have_the_shapes_and_values_of_the_contract(folder: Path) -> None:
    batch = next(batches(folder))
    assert batch["videos"].shape == (4, 4, 3, 16, 16)
    assert batch["images"].shape == (4, 3, 3, 16, 16)
    assert batch["videos"].dtype == batch["images"].dtype == torch.float32
    assert -1 <= batch["videos"].min() < batch["videos"].max() <= 1


def test_each_epoch_has_every_clip_once_in_an_order_of_its_own() -> None:
    epochs = [[clip_of(e * 50 + k, 50, seed=1) for k in range(50)] for e in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [clip_of(k, 50, seed=2) for k in range(50)] != epochs[0]


def test_the_number_of_workers_does_not_matter(folder: Path) -> None:
    expected = take(batches(folder), 5)
    parallel = batches(folder, workers=2)
    assert_equal(take(parallel, 5), expected)
    parallel.close()


def test_a_resumed_run_goes_on_with_the_same_items(folder: Path) -> None:
    expected = take(batches(folder, accumulation=2), 8)
    assert_equal(take(batches(folder, accumulation=2, first_step=3), 2), expected[6:])
    assert not torch.equal(expected[0]["videos"], expected[1]["videos"])


def test_ranks_and_accumulation_divide_a_step_without_changing_it(folder: Path) -> None:
    whole = take(batches(folder, batch_size=8), 2)
    ranks = [batches(folder, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    rounds = take(batches(folder, batch_size=4, accumulation=2), 4)
    both = batches(folder, batch_size=2, rank=0, world_size=2, accumulation=2, first_step=1)
    for step in range(2):
        assert_equal([joined([next(rank) for rank in ranks])], [whole[step]])
        assert_equal([joined(rounds[2 * step : 2 * step + 2])], [whole[step]])
    assert torch.equal(next(both)["videos"], whole[1]["videos"][:2])
    assert torch.equal(next(both)["videos"], whole[1]["videos"][4:6])


def test_another_seed_gives_other_items(folder: Path) -> None:
    one, other = next(batches(folder)), next(batches(folder, seed=8))
    assert not torch.equal(one["videos"], other["videos"])


def test_more_items_than_videos_in_a_batch(folder: Path) -> None:
    batch = next(batches(folder, batch_size=10))
    videos = (((batch["videos"].amin((1, 2, 3, 4)) + 1) * 127.5) / 40).int()
    assert videos.bincount().tolist() == [2] * 5


def test_the_random_numbers_of_training_are_left_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    source = batches(folder, workers=1)
    next(source)
    source.close()
    assert torch.equal(torch.rand(3), expected)


def test_closing_ends_the_workers_and_can_be_undone(folder: Path) -> None:
    expected = take(batches(folder), 4)
    before = set(multiprocessing.active_children())
    source = batches(folder, workers=2)
    first = take(source, 2)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    source.close()
    deadline = time.monotonic() + 10
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(worker.is_alive() for worker in workers)
    assert_equal(first + take(source, 2), expected)
    source.close()


def test_closing_ends_workers_that_a_traceback_remembers(folder: Path) -> None:
    before = set(multiprocessing.active_children())
    source = batches(folder, workers=1)
    next(source)
    remembered = source._loaded
    (worker,) = set(multiprocessing.active_children()) - before
    source.close()
    assert remembered is not None
    assert not worker.is_alive()


def test_a_worker_that_the_system_ends_is_told_in_one_line(folder: Path) -> None:
    before = set(multiprocessing.active_children())
    source = batches(folder, workers=1)
    next(source)
    (worker,) = set(multiprocessing.active_children()) - before

    def go_on() -> None:
        with naming_lost_workers():
            worker.kill()
            worker.join()
            take(source, 20)

    with pytest.raises(OSError, match=r"a data worker was ended.*lower data\.workers"):
        go_on()
    source.close()
    with pytest.raises(RuntimeError, match="another"), naming_lost_workers():
        raise RuntimeError("another")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_later_is_named_in_one_line(folder: Path, workers: int) -> None:
    source = batches(folder, workers=workers)
    for file in folder.glob("3/*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3/0000\d\d\.png: not readable") as caught:
        take(source, 3)
    assert "\n" not in str(caught.value)
    source.close()


def test_the_counts_are_there_for_the_log(folder: Path) -> None:
    assert len(batches(folder).dataset) == 5
    assert batches(folder).dataset.skipped == 0


def test_workers_read_videos_after_the_main_process_did(folder_of_videos: Path) -> None:
    """A process forked from one that has used decord would wait for ever in it."""
    clip = ClipConfig(frames=16, size=32, frame_interval=3)
    taken = []
    for workers in (0, 1):
        data = DataConfig(folder=str(folder_of_videos), images_per_clip=2, workers=workers)
        source = endless_batches(
            data, clip, batch_size=2, seed=0, rank=0, world_size=1, first_step=0
        )
        taken.append(take(source, 2))
        source.close()
    assert_equal(*taken)
