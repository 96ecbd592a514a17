"""Settings of semi_fixmatch.py: diagnosis from few labelled videos and many without labels.

`compat: endora` sets what the published experiment did, flaws included (`COMPAT`). It stands above
the settings file and below the command line, so single parts of it can be undone there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

from configs.load import build, merge_sources
from configs.schema import Precision, require

Algorithm = Literal["supervised", "fixmatch", "comatch"]

NONE, REST = "none", "rest"  # words for `unlabelled`

# What the published experiment did where ours does otherwise, by setting.
COMPAT: dict[str, Any] = {
    "data.choice": "first",
    "data.window": "published",
    "data.match_resolution": None,
    "network.drop_path": 0.1,
    "train.epochs": 20,
    "train.labelled_batch": 4,
    "train.unlabelled_batch": 4,
    "train.threshold": 0.95,
    "train.unlabelled_weight": 1.0,
    "train.alignment": "uniform",
    "train.alignment_length": 32,
    "train.alignment_anew": True,
    "train.loss_on": "weak",
    "train.weak": "compat",
    "train.strong": "compat",
    "train.optimizer": "sgd",
    "train.learning_rate": 0.001 * 4 / 256,
    "train.head_learning_rate": 0.001 * 4 / 256,
    "train.layer_decay": 1.0,
    "train.weight_decay": 0.0,
    "train.warmup_steps": 0,
    "train.schedule": "cosine_by_epoch",
    "train.ema_decay": 0.999,
    "train.ema_warmup": False,
    "evaluate.windows": 1,
    "evaluate.top": 0,
    "evaluate.place": "left",
    "evaluate.choose": "best_on_test",
    "evaluate.supervised": "training_mode",
}


@dataclass
class DiagnosisData:
    """Labelled videos, and how clips are taken from them and from those without labels."""

    folder: str = MISSING  # labelled videos; names in the lists are relative to it
    train_list: str = "splits/train.txt"  # lines FILE,LABEL, or a table with name and label
    test_list: str = "splits/val.txt"  # judged once, after the last step
    labelled_per_class: int = 20  # videos of the train list whose labels are used
    choice: Literal["random", "first"] = "random"  # which ones: by the seed, or the first
    fps: float | None = None  # frames per second of labelled videos; none: as each file says
    # Frames per second of the scene in folders of `unlabelled`; none: as each file says. Files of
    # a generator say how fast to play them: give source rate / clip.frame_interval instead.
    unlabelled_fps: float | None = None
    frames: int = 8  # of a clip
    window: Literal["time", "published"] = "time"  # published: short videos repeat their last frame
    window_seconds: float = 1.6  # of the scene that a clip spans
    size: int = 224  # pixels, height and width of a view
    store_size: int | None = None  # short side of frames in memory; none: 8/7 of size
    match_resolution: int | None = 128  # every frame goes through this size first; none: as it is
    workers: int = 4  # loader processes; results do not depend on it
    memory_mib: int = 1024  # frames kept by each of these processes

    def __post_init__(self) -> None:
        for name in ("labelled_per_class", "frames", "size", "memory_mib"):
            require(getattr(self, name) >= 1, f"data.{name}: at least 1, got {getattr(self, name)}")
        require(self.workers >= 0, f"data.workers: 0 or more, got {self.workers}")
        for name in ("fps", "unlabelled_fps", "window_seconds", "store_size", "match_resolution"):
            value = getattr(self, name)
            require(value is None or value > 0, f"data.{name}: above 0, got {value}")

    @property
    def stored(self) -> int:
        """Pixels of the short side of the frames that views are made of."""
        return self.store_size or -(-self.size * 8 // 7)


@dataclass
class ClassifierConfig:
    """The network: a video transformer, or a small one that looks at single frames."""

    # base: ViT-B/16, as the published weights; tiny and mini: small ones; lite: an image network
    # that comes with a Python package (weights: package), for a CPU
    size: str = "base"
    weights: str | None = None  # file of published weights to begin with; none: random ones
    drop_path: float = 0.1  # probability to leave out a branch of the last block in training
    checkpointing: bool = False  # compute activations twice to save memory

    def __post_init__(self) -> None:
        require(0 <= self.drop_path < 1, f"network.drop_path: in [0, 1), got {self.drop_path}")


@dataclass
class ComatchConfig:
    """What CoMatch adds to FixMatch (arXiv 2011.11183)."""

    width: int = 64  # of the embeddings
    temperature: float = 0.2
    memory_batches: int = 5  # kept for smoothing pseudo-labels, and steps before that begins
    own_share: float = 0.9  # of a clip's own prediction in its pseudo-label
    graph_threshold: float = 0.8  # two clips are alike where their predictions agree so much
    contrast_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "memory_batches"):
            value = getattr(self, name)
            require(value >= 1, f"comatch.{name}: at least 1, got {value}")
        require(self.temperature > 0, f"comatch.temperature: above 0, got {self.temperature}")
        require(0 <= self.own_share <= 1, f"comatch.own_share: in [0, 1], got {self.own_share}")
        require(
            self.contrast_weight >= 0,
            f"comatch.contrast_weight: 0 or more, got {self.contrast_weight}",
        )


@dataclass
class DiagnosisTrain:
    """The training of one seed. Batches are those of all processes together."""

    steps: int = 2000
    epochs: int | None = None  # in place of steps: passes over the labelled videos
    labelled_batch: int = 4
    unlabelled_batch: int = 16
    threshold: float = 0.95  # least probability of a pseudo-label that counts
    unlabelled_weight: float = 1.0
    # Predictions are scaled so that their running mean becomes that of the labelled videos, or
    # uniform.
    alignment: Literal["labelled", "uniform", "none"] = "labelled"
    alignment_length: int = 32  # batches in the running mean
    alignment_anew: bool = False  # forget the running mean after every epoch
    weak: Literal["area", "compat"] = "area"
    strong: Literal["endoscopy", "fixmatch", "compat"] = "endoscopy"
    loss_on: Literal["strong", "weak"] = "strong"  # the view that pseudo-labels teach
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: momentum 0.9
    learning_rate: float = 2e-5  # of the last block
    head_learning_rate: float = 1e-3
    layer_decay: float = 0.75  # rate of a block, as a share of that of the block after it
    weight_decay: float = 0.05  # not of norms, biases and tables
    warmup_steps: int = 100
    schedule: Literal["cosine", "cosine_by_epoch", "constant"] = "cosine"
    clip_norm: float = 0.0  # largest gradient norm; 0 never clips
    ema_decay: float = 0.999
    ema_warmup: bool = True  # decay min(ema_decay, (1 + step) / (10 + step))
    precision: Precision = "auto"  # bf16 on GPUs that have it
    log_every: int = 20  # steps
    save_every: int = 200  # steps; a stop by SIGTERM saves too

    def __post_init__(self) -> None:
        positive = ("steps", "labelled_batch", "unlabelled_batch", "alignment_length", "log_every")
        for name in (*positive, "save_every"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name}: at least 1, got {value}")
        require(
            self.epochs is None or self.epochs >= 1, f"train.epochs: 1 or more, got {self.epochs}"
        )
        for name in ("learning_rate", "head_learning_rate", "layer_decay"):
            value = getattr(self, name)
            require(value > 0, f"train.{name}: above 0, got {value}")
        for name in (
            "threshold",
            "unlabelled_weight",
            "weight_decay",
            "warmup_steps",
            "clip_norm",
        ):
            value = getattr(self, name)
            require(value >= 0, f"train.{name}: 0 or more, got {value}")
        require(0 <= self.ema_decay < 1, f"train.ema_decay: in [0, 1), got {self.ema_decay}")


@dataclass
class EvaluateConfig:
    """How a video of the test list is judged."""

    windows: int = 10  # spread evenly over a video; the mean of their probabilities counts
    top: int = 0  # only the so many highest of them, for a lesion may show for a moment; 0: all
    batch_size: int = 8  # clips
    place: Literal["centre", "left"] = "centre"  # the square of a frame that is looked at
    # best_on_test is the published choice. It makes the test list part of the training.
    choose: Literal["last", "best_on_test"] = "last"
    # Which network is judged after supervised training. training_mode, as published: that of the
    # last step itself, with branches left out at random.
    supervised: Literal["average", "training_mode"] = "average"

    def __post_init__(self) -> None:
        for name in ("windows", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"evaluate.{name}: at least 1, got {value}")
        require(self.top >= 0, f"evaluate.top: 0 (all windows) or more, got {self.top}")


@dataclass
class DiagnosisConfig:
    """One row of a comparison: an algorithm, its unlabelled videos, and several seeds."""

    output: str = MISSING  # folder of the row; every seed has its own below it
    algorithm: Algorithm = "fixmatch"
    # none: supervised; a folder of videos; rest: what is left of the train list, without its
    # labels; or several of these, as in [rest, samples/]
    unlabelled: Any = NONE
    compat: Literal["none", "endora"] = "none"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    keep_weights: bool = True  # write each seed's trained network
    report: bool = True  # write a table and a page of the row beside its seeds
    data: DiagnosisData = field(default_factory=DiagnosisData)
    network: ClassifierConfig = field(default_factory=ClassifierConfig)
    train: DiagnosisTrain = field(default_factory=DiagnosisTrain)
    comatch: ComatchConfig = field(default_factory=ComatchConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds: name at least one, such as [0]")
        require(all(seed >= 0 for seed in self.seeds), f"seeds: 0 or more, got {self.seeds}")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds: each once, got {self.seeds}")
        given = [self.unlabelled] if not isinstance(self.unlabelled, list) else self.unlabelled
        if given in ([NONE], [None]):
            given = []
        for each in given:
            require(
                isinstance(each, str) and each not in ("", NONE),
                f"unlabelled: none, rest, a folder or a list of these, got {self.unlabelled!r}",
            )
        require(len(set(given)) == len(given), f"unlabelled: each once, got {self.unlabelled}")
        self.unlabelled = given or NONE
        require(
            self.algorithm != "comatch" or self.train.loss_on == "strong",
            "algorithm=comatch teaches the strong view; train.loss_on=weak (as compat=endora sets "
            "it) is for fixmatch",
        )

    @property
    def pools(self) -> list[str]:
        """Where videos without labels come from: folders, and perhaps the word rest."""
        return list(self.unlabelled) if isinstance(self.unlabelled, list) else []

    @property
    def method(self) -> Algorithm:
        """The algorithm that runs: without unlabelled videos all are supervised training."""
        return self.algorithm if self.pools else "supervised"

    @property
    def epoch_steps(self) -> float:
        """Steps in which every labelled video is seen once, of both classes equally many."""
        return 2 * self.data.labelled_per_class / self.train.labelled_batch

    @property
    def steps(self) -> int:
        """Steps of a seed."""
        if self.train.epochs is None:
            return self.train.steps
        return math.ceil(self.train.epochs * self.epoch_steps - 1e-9)


def load_diagnosis(path: Path | None, overrides: Sequence[str]) -> DiagnosisConfig:
    """The settings of a row from its file and the command line.

    Raises:  FileNotFoundError, ValueError in one line, naming the key and the file
    """
    given = merge_sources(path, overrides)
    if given.get("compat", "none") == "endora":
        given = merge_sources(path, [*compat_overrides(), *overrides])
    return build(DiagnosisConfig(), given, path)


def compat_overrides() -> list[str]:
    """`COMPAT` as on a command line."""
    return [f"{key}={'null' if value is None else value}" for key, value in COMPAT.items()]
