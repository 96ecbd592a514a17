"""One step of learning: who gets a gradient, what is remembered, and how fast the average moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.diagnosis import DiagnosisConfig, load_diagnosis
from tools.diagnosis.feeding import Views
from tools.diagnosis.learner import Learner
from tools.diagnosis.preparation import Split, find_videos, split
from tools.training.ema import Ema
from tools.training.runtime import Runtime

Settings = Callable[..., list[str]]
RUNTIME = Runtime(torch.device("cpu"))


@pytest.fixture
def build(settings: Settings, videos: Path, tmp_path: Path) -> Callable[..., Learner]:
    """A learner on the videos, always with the same new network."""

    def make(*overrides: str) -> Learner:
        given = [f"unlabelled={videos / 'pool'}", "data.train_list=train.csv"]
        given += ["data.test_list=test.csv", "network.size=tiny", "network.drop_path=0"]
        config = load_diagnosis(None, settings(tmp_path, *given, *overrides))
        torch.manual_seed(0)
        return Learner(config, chosen(config), RUNTIME)

    return make


def chosen(config: DiagnosisConfig) -> Split:
    return split(find_videos(config), config, seed=3)


def views(clips: int = 4, **changes: torch.Tensor) -> Views:
    generator = torch.Generator().manual_seed(1)

    def pixels() -> torch.Tensor:
        return torch.randint(0, 256, (clips, 2, 3, 16, 16), generator=generator).to(torch.uint8)

    made = {name: pixels() for name in ("labelled", "weak", "strong", "other")}
    made["labels"] = torch.arange(clips) % 2
    made["truth"] = torch.arange(clips) % 2
    return {**made, **changes}


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in learner.classifier.parameters()])


def test_without_clips_that_count_fixmatch_is_supervised_training(
    build: Callable[..., Learner],
) -> None:
    supervised, none_count = build("algorithm=supervised"), build("train.threshold=1.1")
    some_count = build("train.threshold=0")
    for learner in (supervised, none_count, some_count):
        for _ in range(2):
            learner.take(views())
    assert torch.allclose(weights(supervised), weights(none_count), atol=1e-6)
    assert not torch.allclose(weights(supervised), weights(some_count), atol=1e-6)


@pytest.mark.parametrize(("compat", "matters"), [("none", True), ("endora", False)])
def test_the_strong_view_matters_but_in_compat(
    build: Callable[..., Learner], compat: str, matters: bool
) -> None:
    ends = []
    for value in (0, 200):
        learner = build(f"compat={compat}", "train.threshold=0", "train.learning_rate=0.01")
        learner.take(views(strong=torch.full((4, 2, 3, 16, 16), value, dtype=torch.uint8)))
        ends.append(weights(learner))
    assert torch.equal(*ends) is not matters


def test_truth_is_reported_and_not_learned(build: Callable[..., Learner]) -> None:
    ends = []
    for truth in (0, 1):
        learner = build("train.threshold=0")
        measured = learner.take(views(truth=torch.full((4,), truth)))
        ends.append((weights(learner), float(measured.pseudo["right"])))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] + ends[1][1] == 4


def test_the_loss_is_the_sum_of_its_weighted_parts(build: Callable[..., Learner]) -> None:
    learner = build(
        "algorithm=comatch",
        "train.threshold=0",
        "train.unlabelled_weight=3",
        "comatch.contrast_weight=0.5",
    )
    values = {name: float(value) for name, value in learner.take(views()).values.items()}
    parts = values["loss_labelled"] + 3 * values["loss_unlabelled"]
    assert values["loss"] == pytest.approx(parts + 0.5 * values["loss_contrast"], rel=1e-5)


def test_comatch_learns_its_projection_and_fills_its_memory(build: Callable[..., Learner]) -> None:
    learner = build("algorithm=comatch", "comatch.memory_batches=2")
    assert learner.projection is not None
    assert learner.bank is not None
    before = learner.projection.second.weight.detach().clone()
    for filled in (8, 16, 16):
        learner.take(views())
        assert learner.bank.filled == filled
    assert not torch.equal(before, learner.projection.second.weight)
    certain = learner.bank.probabilities.amax(dim=1) == 1  # labelled clips enter as they are
    assert certain.sum() == 8


@pytest.mark.parametrize("algorithm", ["supervised", "fixmatch", "comatch"])
def test_a_learner_goes_on_from_its_state_bit_for_bit(
    build: Callable[..., Learner], algorithm: str, tmp_path: Path
) -> None:
    def run(learner: Learner, steps: int) -> None:
        for _ in range(steps):
            torch.manual_seed(learner.step)
            learner.take(views())

    settings = (f"algorithm={algorithm}", "network.drop_path=0.3", "train.threshold=0")
    whole, first = build(*settings), build(*settings)
    run(whole, 5)
    run(first, 3)
    torch.save(first.state(), tmp_path / "state.pt")
    second = build(*settings)
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    run(second, 2)
    assert_equal(whole.state(), second.state())


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_the_running_mean_lives_as_long_as_the_run_and_an_epoch_in_compat(
    build: Callable[..., Learner],
) -> None:
    whole = build("train.alignment_length=5")  # 8 labelled videos: epochs of 2 steps
    anew = build("train.alignment_anew=true")
    lengths = []
    for _ in range(6):
        whole.take(views())
        anew.take(views())
        lengths.append((len(whole.alignment), len(anew.alignment)))
    assert lengths == [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1), (5, 2)]


def test_without_alignment_predictions_stay_as_they_are(build: Callable[..., Learner]) -> None:
    learner = build("train.alignment=none")
    learner.take(views())
    assert len(learner.alignment) == 0
    predictions = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    assert torch.equal(learner._aligned(predictions), predictions)


def test_a_loss_that_is_no_number_stops_without_a_change(build: Callable[..., Learner]) -> None:
    learner = build("algorithm=supervised")
    with torch.no_grad():
        learner.classifier.head.bias.fill_(float("nan"))
    before = learner.classifier.head.weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"train\.learning_rate"):
        learner.take(views())
    assert torch.equal(before, learner.classifier.head.weight)


@pytest.mark.parametrize(("warmup", "left"), [(False, 0.8186), (True, 0.0)])
def test_what_is_left_of_the_start_after_200_steps(warmup: bool, left: float) -> None:
    network = torch.nn.Linear(1, 1, bias=False).double()
    average = Ema({"it": network}, 0.999, warmup=warmup)
    average.networks["it"].double()
    with torch.no_grad():
        average.networks["it"].weight.fill_(1.0)  # the start, while the network is 0
        network.weight.zero_()
    for step in range(200):
        average.update({"it": network}, step)
    weight = float(average.networks["it"].weight)
    assert weight == pytest.approx(left, abs=1e-4)
    if warmup:
        assert weight < 1e-12


def test_steps_by_epochs_are_those_of_the_published_run(build: Callable[..., Learner]) -> None:
    learner = build("compat=endora", "data.labelled_per_class=8")
    assert learner.steps == 20 * 16 // 4
    published = DiagnosisConfig(output="x")
    published.train.epochs = 20
    assert published.steps == 200
