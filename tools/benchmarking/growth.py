"""How the cost of a training step grows, with the floor of operations and bytes beside it."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from tools.benchmarking.counting import item_work, step_bytes
from tools.benchmarking.networks import Model, cached_batch
from tools.benchmarking.reference import Layers
from tools.benchmarking.tables import Row, Section, Setup
from tools.benchmarking.timing import alternate
from tools.benchmarking.training import Steps, Variant, own_step

FRAMES, PIXELS, ITEMS = (8, 16, 32, 64), (64, 128, 192, 256), (1, 2, 4)


def growth_section(setup: Setup) -> Section:
    """Frames, resolution, items and processes, each alone, from a cache, the project's own way."""
    model = setup.model
    points: dict[str, tuple[Model, int]] = {}
    for frames in FRAMES[:2] if setup.quick else FRAMES:
        points[f"{frames} frames"] = (replace(model, frames=frames), setup.items)
    for pixels in PIXELS[:2] if setup.quick else PIXELS:
        points[f"{pixels} pixels"] = (replace(model, pixels=pixels), setup.items)
    for items in ITEMS[:2] if setup.quick else ITEMS:
        points[f"{items} item{'s' * (items > 1)}"] = (model, setup.items * items)
    on_gpu = setup.device.type == "cuda"
    rows = []
    for name, (each, items) in points.items():
        work = own_step(each, setup.device, items, bf16=setup.bf16, compiled=on_gpu)
        seconds = alternate({name: work}, setup.device, setup.slow_rounds, 3 if on_gpu else 1)
        rows.append(Row(name, seconds[name], floors=floors(setup, each, items)))
    notes = [
        f"Steps of {model.size}/2, {model.frames} frames and {model.images} images of "
        f"{model.pixels} pixels where nothing else is said, {setup.items} item(s)."
    ]
    if not on_gpu and not setup.quick:
        rows += [process_row(setup, count) for count in (1, 2)]
        notes.append(
            f"Processes share the same {torch.get_num_threads()} core(s) and 2 items, and average "
            f"{4 * model.item.parameters / 1e6:.0f} MB of gradients over gloo in every step."
        )
    return Section("growth", "How the cost grows", "s per step", rows, notes)


def floors(setup: Setup, model: Model, items: int) -> tuple[float, float]:
    """Least seconds of a step: operations at the ceiling of products, bytes at the bandwidth."""
    operations = item_work(model.item).step * items / setup.ceilings.rate(setup.bf16)
    moved = step_bytes(model.item, items, bf16=setup.bf16) / setup.ceilings.bandwidth
    return operations, moved


def process_row(setup: Setup, processes: int) -> Row:
    """A step on 2 items, on one process or on two that share the cores and the items."""
    seconds = parallel_seconds(
        setup.model, processes, 2 // processes, setup.slow_rounds, setup.bf16
    )
    return Row(
        f"{processes} process{'es' * (processes > 1)}",
        seconds,
        floors=floors(setup, setup.model, 2),
    )


def parallel_seconds(
    model: Model, processes: int, items: int, rounds: int, bf16: bool
) -> list[float]:
    """Seconds of every step on the first process."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    threads = max(1, torch.get_num_threads() // processes)
    job = {"model": model, "items": items, "rounds": rounds, "bf16": bf16, "threads": threads}
    port = _free_port()
    started = [
        context.Process(target=_train_in_parallel, args=(rank, processes, port, job, results))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = [process.exitcode for process in started if process.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {processes} processes ended with {failed[0]}")
    return list(results.get(timeout=10))


def _train_in_parallel(
    rank: int, processes: int, port: int, job: Mapping[str, Any], results: Any
) -> None:
    torch.set_num_threads(job["threads"])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=processes)
    device = torch.device("cpu")
    steps = Steps(job["model"], device)
    batch = cached_batch(job["model"], job["items"], device)
    work = steps.step(Variant(Layers(), job["bf16"], True, True), batch)
    seconds = alternate({"step": work}, device, job["rounds"])["step"]
    if rank == 0:
        results.put(seconds)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
