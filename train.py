"""Train one video generator.

On one device:   python train.py --config configs/demo/toy.yaml
On four GPUs:    torchrun --standalone --nproc_per_node=4 train.py --config configs/col/endora.yaml
To go on after a stop, run the same command again: the newest checkpoint of `output` is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from configs.errors import one_line, run_command
from configs.load import load_run, to_yaml
from configs.schema import RunConfig
from datasets.sampling import EndlessBatches, endless_batches, naming_lost_workers
from models.interface import Method
from models.registry import method_class, method_config
from tools.training.cached import build_for_training
from tools.training.checkpoints import Checkpoints
from tools.training.feeding import Feed
from tools.training.lock import only_process
from tools.training.logging import RunLog
from tools.training.previews import preview_if_due
from tools.training.randomness import reseed
from tools.training.runtime import Runtime, start_runtime
from tools.training.scores import TrainingScores
from tools.training.state import TrainState
from tools.training.stopping import StopRequest
from tools.training.weights import check_same_method, read_weights

logger = logging.getLogger("train")


def train(config: RunConfig) -> int:
    """Train until train.steps are done or somebody asks to stop; the exit status."""
    settings = config.train
    with (
        start_runtime(settings.precision) as runtime,
        only_process(Path(config.output), runtime),
        RunLog(config, runtime) as log,
        naming_lost_workers(),
        StopRequest(runtime) as stop,
        contextlib.ExitStack() as stack,
    ):
        method = build_for_training(config).to(runtime.device)
        # The same new networks on every process, whatever frozen ones the method has built.
        reseed(settings.seed, 0, 0)
        state = TrainState(method, settings, runtime)
        checkpoints = Checkpoints(config, runtime)
        resumed = checkpoints.load_latest(state)
        if not resumed and not load_initial_weights(state, config):
            calibrate(method, state, config, runtime, stop)
        log.begin(state.step)
        batches = open_batches(method, state, config, runtime)
        stack.callback(batches.close)  # also after an error
        feed = Feed(batches, settings.accumulation, runtime.device, stop)
        scores = TrainingScores(config, runtime, state.step)

        while state.step < settings.steps and not stop.agreed():
            stop.share()
            rounds = feed.take()
            # After the data, for a loader may use up random numbers when it starts.
            reseed(settings.seed, runtime.rank, state.step)
            for phase in method.phases(state.step):
                log.add(state.take(phase, rounds))
            log.add(state.end_step())
            feed.prepare()
            log.write_if_due(state.step, state.clips, state.learning_rates())
            checkpoints.save_if_due(state)
            preview_if_due(method, state, runtime, log, stop)
            scores.measure_if_due(method, state, log, stop)

        batches.close()
        checkpoints.save(state)
        if state.step >= settings.steps:
            logger.info("done: %d steps, see %s", state.step, config.output)
            return 0
        logger.info("stopped at step %d as asked; run the same command to go on", state.step)
        return stop.exit_status


def open_batches(
    method: Method, state: TrainState, config: RunConfig, runtime: Runtime, shift: int = 0
) -> EndlessBatches:
    """The micro batches of this process from the state's step on; `shift` gives others."""
    settings = config.train
    return endless_batches(
        config.data,
        config.clip,
        batch_size=settings.batch_size,
        seed=settings.seed + shift,
        rank=runtime.rank,
        world_size=runtime.world_size,
        first_step=state.step,
        accumulation=settings.accumulation,
        cached_parts=method.cached_names() if config.data.cache else (),
    )


def calibrate(
    method: Method, state: TrainState, config: RunConfig, runtime: Runtime, stop: StopRequest
) -> None:
    """Let a method measure on the data what its networks keep, such as the scale of latents."""
    if method.calibration == 0:
        return
    with contextlib.closing(open_batches(method, state, config, runtime, shift=1)) as batches:
        feed = Feed(batches, 1, runtime.device, stop)
        with torch.no_grad(), runtime.autocast():
            method.calibrate(state.networks, (feed.take()[0] for _ in range(method.calibration)))
    state.agree()
    for average in state.averages:
        average.reset(state.networks)


def load_initial_weights(state: TrainState, config: RunConfig) -> bool:
    """Let a new run start from train.initial_weights; false if there are none."""
    if config.train.initial_weights is None:
        return False
    path = Path(config.train.initial_weights)
    weights = read_weights(path)
    check_same_method(weights, config, path)
    try:
        state.start_from(weights.networks)
    except ValueError as error:
        raise ValueError(f"train.initial_weights: {path}: {error}") from None
    logger.info("starting from the weights of step %d in %s", weights.step, path)
    return True


def describe(config: RunConfig) -> None:
    """Print the complete settings, and the sizes of the networks without making them."""
    print(to_yaml(config), end="", flush=True)
    try:
        method = build_for_training(config)
    except FileNotFoundError as error:  # the settings can be read without the weights they name
        print(f"# a run would stop: {one_line(error)}")
        counted = _without_files(config)
        if counted is None:
            print("# networks not counted")
            return
        method = counted
    with torch.device("meta"):
        networks = method.build_networks()
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        print(f"# {name}: {count:,} parameters")


def _without_files(config: RunConfig) -> Method | None:
    """The method for counting its networks; None where that takes the missing files."""
    stand_in = method_class(config.method_name).without_files(config.method)
    try:
        return build_for_training(replace(config, method=stand_in))
    except FileNotFoundError:
        return None


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process) and train."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the complete settings and stop"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in train.steps=100")
    arguments = parser.parse_intermixed_args(command_line)
    config = load_run(arguments.config, arguments.overrides, method_config)
    if arguments.dry_run:
        describe(config)
        return 0
    return train(config)


if __name__ == "__main__":
    run_command(main)
