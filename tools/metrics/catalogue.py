"""Which metrics there are, what each means, and whose features it is computed from.

Nothing here needs torch, so that --help and --list answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["down", "up", "none"]
Family = Literal["reference", "efficientnet", "untrained"]

ARROWS: Mapping[Direction, str] = {"down": "↓", "up": "↑", "none": ""}


@dataclass(frozen=True)
class ScoreKind:
    """One number of a metric: its name in files, its heading in tables, its better direction."""

    name: str
    label: str
    direction: Direction

    @property
    def heading(self) -> str:
        """The label with an arrow that points to where scores are better."""
        return f"{self.label} {ARROWS[self.direction]}".rstrip()


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        name        as --metrics takes it
        meaning     one sentence for a reader who does not know it
        role        which network of a family makes its features; see `FAMILIES`
        kinds       the numbers that it gives
        needs_real  whether it compares with real videos; an inception score does not
        frechet     whether it fits covariances, and so needs more samples than dimensions
    """

    name: str
    meaning: str
    role: str
    kinds: Sequence[ScoreKind]
    needs_real: bool = True
    frechet: bool = False

    @property
    def label(self) -> str:
        """What it is called where its numbers are spoken of together."""
        return " and ".join(kind.label for kind in self.kinds[:2])

    @property
    def unit(self) -> Literal["clips", "frames"]:
        """What one sample of it is."""
        return "frames" if self.role in ("images", "dino") else "clips"


MEMORISATION = "memorisation"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "fvd",
            "Fréchet distance of clips: appearance and, more weakly, motion",
            "clips",
            [ScoreKind("fvd", "FVD", "down")],
            frechet=True,
        ),
        Metric(
            "fid",
            "Fréchet distance of single frames: appearance alone",
            "images",
            [ScoreKind("fid", "FID", "down")],
            frechet=True,
        ),
        Metric(
            "is",
            "inception score of single frames: sure and varied classes; looks at no real data",
            "images",
            [ScoreKind("is", "IS", "up")],
            needs_real=False,
        ),
        Metric(
            "kid",
            "kernel distance of single frames: unbiased, honest for few videos; may be negative",
            "images",
            [ScoreKind("kid", "KID", "down")],
        ),
        Metric(
            "kvd",
            "kernel distance of clips: KID on the features of FVD; may be negative",
            "clips",
            [ScoreKind("kvd", "KVD", "down")],
        ),
        Metric(
            "video_is",
            "inception score of clips, from classes of actions",
            "video classes",
            [ScoreKind("video_is", "video IS", "up")],
            needs_real=False,
        ),
        Metric(
            "cdfvd",
            "Fréchet distance of clips by features that look at motion more than FVD's",
            "content-debiased",
            [ScoreKind("cdfvd", "CD-FVD", "down")],
            frechet=True,
        ),
        Metric(
            "fd_dinov2",
            "Fréchet distance of single frames by features nearer to what people see than FID's",
            "dino",
            [ScoreKind("fd_dinov2", "FD-DINOv2", "down")],
            frechet=True,
        ),
        Metric(
            "jedi",
            "kernel distance of clips by features of a joint-embedding network",
            "joint embedding",
            [ScoreKind("jedi", "JEDi", "down")],
        ),
        Metric(
            "prdc",
            "precision, density: are clips like real ones? recall, coverage: like all of them?",
            "clips",
            [
                ScoreKind("precision", "precision", "up"),
                ScoreKind("recall", "recall", "up"),
                ScoreKind("density", "density", "up"),
                ScoreKind("coverage", "coverage", "up"),
            ],
        ),
        Metric(
            "fvd_frozen",
            "FVD of generated clips that stand still at their first frame: near FVD, it is blind "
            "to motion here",
            "clips",
            [ScoreKind("fvd_frozen", "frozen FVD", "none")],
            frechet=True,
        ),
        Metric(
            MEMORISATION,
            "share of generated clips nearer to a training clip than 95 % of training clips are to "
            "another training video: 0.05 without copying; a contact sheet shows the closest pairs",
            "clips",
            [ScoreKind(MEMORISATION, "near training", "none")],
        ),
    )
}

DEFAULT_METRICS = ("fvd", "fid", "is")
ALL = "all"

# Family -> role -> name of the extractor (tools/metrics/extractors.py).
FAMILIES: Mapping[Family, Mapping[str, str]] = {
    "reference": {
        "clips": "i3d",
        "images": "inception",
        "video classes": "c3d",
        "content-debiased": "videomae",
        "dino": "dinov2",
        "joint embedding": "vjepa",
    },
    "efficientnet": {
        "clips": "efficientnet-clips",
        "images": "efficientnet-images",
        "video classes": "efficientnet-clips",
    },
    "untrained": {
        "clips": "untrained-clips",
        "images": "untrained-images",
        "video classes": "untrained-clips",
    },
}


def family_metrics(family: Family) -> list[str]:
    """The metrics that a family of extractors can compute, in the order of tables."""
    roles = FAMILIES[family]
    return [name for name, metric in METRICS.items() if metric.role in roles]


def choose_metrics(text: str, family: Family) -> list[str]:
    """The metrics that `fvd,fid`, `all` or "" (the usual ones) stands for, in the order of tables.

    Raises:  ValueError for an unknown name, and for one that the family has no network for
    """
    able = family_metrics(family)
    named = [name.strip().lower().replace("-", "_") for name in text.split(",") if name.strip()]
    if not named:
        return [name for name in DEFAULT_METRICS if name in able]
    if ALL in named:
        return able
    for name in named:
        if name not in METRICS:
            raise ValueError(
                f"--metrics {name}: no such metric; there are {', '.join(METRICS)} and {ALL}"
            )
        if name not in able:
            raise ValueError(
                f"--metrics {name}: the extractors of --extractor {family} cannot compute it; "
                f"they can: {', '.join(able)}"
            )
    return [name for name in able if name in named]


def extractor_of(metric: str, family: Family) -> str:
    """The name of the extractor whose features a metric takes."""
    return FAMILIES[family][METRICS[metric].role]
