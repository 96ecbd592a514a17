"""Weights of extractors: found, never assumed, and checked before anything opens them.

A file is looked for where the user says, then where the environment says, then in the cache, and
downloaded only when that is allowed. TorchScript files can run code, so no file is opened before
its SHA-256 is known to be right, or the user has said that its origin is trusted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.metrics.download import DownloadError, download

BLOCK = 1 << 20  # bytes that are hashed at a time


@dataclass(frozen=True)
class WeightsOptions:
    """Where weights may come from.

    Attributes:
        cache           folder of downloaded weights
        given           explicit files by extractor: {"i3d": Path("i3d_torchscript.pt")}
        allow_download  fetch what is not there
        trust           accept a file whose SHA-256 is not the known one; reports say "unverified"
    """

    cache: Path
    given: Mapping[str, Path] = field(default_factory=dict)
    allow_download: bool = False
    trust: bool = False


@dataclass(frozen=True)
class KnownFile:
    """A public file of weights. `sha256` and `size` (bytes) are None where nobody published them.

    The URLs are mirrors of one file, tried in turn.
    """

    label: str
    file: str
    urls: tuple[str, ...]
    source: str
    licence: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class WeightsFile:
    """A file that may be opened.

    Attributes:
        sha256    of the file as it is
        verified  whether that is the published one; otherwise the user trusts the file
    """

    path: Path
    sha256: str
    verified: bool
    source: str
    licence: str

    def provenance(self) -> dict[str, Any]:
        """What a report says of the file."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "verified": self.verified,
            "source": self.source,
            "licence": self.licence,
        }


class MissingWeights(FileNotFoundError):
    """A metric's weights are not on this machine. The message says three ways to provide them."""


KNOWN: dict[str, KnownFile] = {
    "i3d": KnownFile(
        label="I3D",
        file="i3d_torchscript.pt",
        urls=(
            "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
            "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
        ),
        source="Kinetics-400 I3D, converted by the authors of StyleGAN-V",
        licence="none stated for the file; the original network is Apache-2.0",
        size=51_235_320,
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
    "c3d": KnownFile(
        label="C3D",
        file="c3d_ucf101.pt",
        urls=("https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1",),
        source="UCF-101 C3D of TGAN2, converted by the authors of StyleGAN-V",
        licence="none stated",
    ),
    "inception": KnownFile(
        label="Inception",
        file="weights-inception-2015-12-05-6726825d.pth",
        urls=(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        source="torch-fidelity release v0.2.0, converted from TensorFlow's graph of 2015-12-05",
        licence="Apache-2.0",
        size=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "dinov2": KnownFile(
        label="DINOv2",
        file="dinov2_vitl14_pretrain.pth",
        urls=("https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",),
        source="Meta's DINOv2 ViT-L/14, distilled, without registers",
        licence="Apache-2.0",
        size=1_217_586_395,
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    "videomae": KnownFile(
        label="VideoMAE",
        file="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        urls=(
            "https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/mae-g/"
            "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        ),
        source="VideoMAE V2 giant, fine-tuned on Something-Something V2, of OpenGVLab",
        licence="see the model's page; not for every use",
        size=2_023_804_201,
        sha256="5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
    ),
    "vjepa": KnownFile(
        label="V-JEPA",
        file="vith16.pth.tar",
        urls=("https://dl.fbaipublicfiles.com/jepa/vith16/vith16.pth.tar",),
        source="Meta's V-JEPA ViT-H/16, 224 pixels (about 10 GB: it carries its optimizer)",
        licence="CC-BY-NC-4.0",
    ),
    "vjepa-probe": KnownFile(
        label="V-JEPA probe",
        file="ssv2-probe.pth.tar",
        urls=("https://dl.fbaipublicfiles.com/jepa/vith16/ssv2-probe.pth.tar",),
        source="Meta's attentive probe of V-JEPA ViT-H/16 on Something-Something V2",
        licence="CC-BY-NC-4.0",
    ),
}


def parse_given(values: Iterable[str]) -> dict[str, Path]:
    """`NAME=PATH` of the command line as {name: path}. Raises ValueError in one line."""
    given = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not path or name not in KNOWN:
            raise ValueError(f"--weights {value}: NAME=PATH with a NAME of {', '.join(KNOWN)}")
        given[name] = Path(path).expanduser()
    return given


def find_weights(name: str, options: WeightsOptions, metric: str) -> WeightsFile:
    """The checked file of the extractor `name`, perhaps downloaded first. See the module.

    Raises:
        MissingWeights  nowhere, or the download failed; names `metric` and says what to do
        ValueError      the file is not the known one, or no SHA-256 is known, and the user does
                        not trust it
    """
    known = KNOWN[name]
    path = _located(name, known, options)
    if path is None:
        path = _downloaded(name, known, options, metric)
    digest = file_digest(path)
    verified = digest == known.sha256
    if not verified and not options.trust:
        raise ValueError(_refusal(path, digest, known))
    return WeightsFile(path, digest, verified, known.source, known.licence)


def environment_variable(name: str) -> str:
    """Of the file of an extractor: ENDORA_WEIGHTS_I3D."""
    return f"ENDORA_WEIGHTS_{name.upper().replace('-', '_')}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _located(name: str, known: KnownFile, options: WeightsOptions) -> Path | None:
    variable = environment_variable(name)
    told = {f"--weights {name}": options.given.get(name), variable: os.environ.get(variable)}
    for origin, value in told.items():
        if value:
            path = Path(value).expanduser()
            if not path.is_file():
                raise MissingWeights(f"{origin}={path}: there is no such file")
            return path
    cached = options.cache / known.file
    return cached if cached.is_file() else None


def _downloaded(name: str, known: KnownFile, options: WeightsOptions, metric: str) -> Path:
    if not options.allow_download:
        raise MissingWeights(_missing(name, known, options, metric, "they were not found"))
    if known.sha256 is None and not options.trust:
        raise ValueError(
            f"no SHA-256 is published for the {known.label} weights {known.file}, so a download "
            f"cannot be checked; add --trust-weights to take it from {known.urls[0]} all the same"
        )
    target = options.cache / known.file
    try:
        download(known.urls, target, size=known.size, sha256=known.sha256)
    except DownloadError as error:
        reason = f"the download failed ({error})"
        raise MissingWeights(_missing(name, known, options, metric, reason)) from error
    return target


def _missing(name: str, known: KnownFile, options: WeightsOptions, metric: str, reason: str) -> str:
    size = f"{known.size:,} bytes" if known.size else "size not published"
    digest = f"sha256 {known.sha256[:8]}..." if known.sha256 else "sha256 not published"
    unknown = "" if known.sha256 else " with --trust-weights"
    return (
        f"{metric} needs the {known.label} weights {known.file} ({size}, {digest}), and {reason}. "
        f"Give them with  --weights {name}=PATH  (or {environment_variable(name)}=PATH), or put "
        f"the file into {options.cache}, or add --allow-download{unknown}. "
        f"Source: {known.source}; licence: {known.licence}. "
        f"To check the pipeline without them: --extractor untrained "
        f"(its scores are not comparable with any paper)."
    )


def _refusal(path: Path, digest: str, known: KnownFile) -> str:
    accept = "accept it with --trust-weights (reports then say: unverified weights)"
    if known.sha256 is None:
        return (
            f"{path}: no SHA-256 is published for the {known.label} weights, and this file's is "
            f"{digest}; if you trust where it came from, {accept}"
        )
    return (
        f"{path}: not the {known.label} weights {known.file}: its SHA-256 is {digest}, expected "
        f"{known.sha256}; get the file again, or {accept}"
    )
