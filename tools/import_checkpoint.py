"""Convert a published checkpoint into weights that `sample` and `train.py` take.

python -m tools.import_checkpoint ORIGINAL --output endora-col.safetensors

Read are Endora and Latte (.pt), StyleGAN-V and MoStGAN-V (.pkl) and both stages of LVDM (.ckpt).
Which of them a file is, and the sizes of its networks, are read from it. No code in a file runs
and nothing that it names is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from configs.errors import run_command
from models.importers.containers import read_pickle
from models.importers.endora import is_transformer
from models.importers.lvdm import is_denoiser, lvdm_state
from models.importers.stylegan_v import is_gan
from models.layers.motion_modulation import Mode
from tools.importing.choices import Choices, Imported
from tools.importing.endora import convert, import_endora
from tools.importing.lvdm import import_autoencoder, import_denoiser
from tools.importing.stylegan_v import import_gan
from tools.training.weights import write_weights

__all__ = ["convert", "main"]

SUFFIX = ".safetensors"
IMPORT: dict[str, Callable[[Mapping[str, object], Choices], list[Imported]]] = {
    "endora": import_endora,
    "gan": import_gan,
    "lvdm_autoencoder": import_autoencoder,
    "lvdm": import_denoiser,
}


def read_original(path: Path, inert: list[str]) -> Mapping[str, object]:
    """The content of a checkpoint, its numbers still in the file.

    Raises FileNotFoundError or ValueError in one line.
    """
    checkpoint = read_pickle(path, inert)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def kind_of(checkpoint: Mapping[str, object]) -> str:
    """The family of a checkpoint, by what it has at its top level. Raises ValueError."""
    if is_gan(checkpoint):
        return "gan"
    state = lvdm_state(checkpoint)
    if state is not None:
        return "lvdm" if is_denoiser(state) else "lvdm_autoencoder"
    if any(is_transformer(value) for value in (checkpoint, *checkpoint.values())):
        return "endora"
    raise ValueError(
        f"a checkpoint of no known kind: Endora and Latte have x_embedder.proj.weight, StyleGAN-V "
        f"and MoStGAN-V G_ema and D, LVDM has state_dict; found at the top level "
        f"{', '.join(map(str, list(checkpoint)[:6])) or 'nothing'}"
    )


def main() -> None:
    """Read the command line and write the file, or the files."""
    arguments = _parser().parse_args()
    output: Path = arguments.output
    if output.suffix != SUFFIX:
        raise ValueError(f"--output {output}: the name has to end in {SUFFIX}")
    checkpoint = read_original(arguments.original, arguments.inert)
    choices = _choices(arguments)
    try:
        kind = kind_of(checkpoint) if arguments.kind == "auto" else arguments.kind
        imported = IMPORT[kind](checkpoint, choices)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{arguments.original}: {error}") from None
    for each in imported:
        write_weights(each.output, each.weights)
        print(f"wrote {each.output}: {each.summary}")


def _choices(arguments: argparse.Namespace) -> Choices:
    other: Path | None = arguments.interpolation
    return Choices(
        output=arguments.output,
        which=arguments.which,
        heads=arguments.heads,
        interlaced=not arguments.sequential,
        anchor_distance=arguments.anchor_distance,
        motion_modulation=arguments.motion_modulation,
        latent_scale=arguments.latent_scale,
        latent_shift=arguments.latent_shift,
        size=arguments.size,
        frames=arguments.frames,
        autoencoder=arguments.autoencoder,
        perceptual=arguments.perceptual,
        interpolation=read_original(other, arguments.inert) if other else None,
        time_factor=arguments.time_factor,
        frame_interval=arguments.frame_interval,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.import_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("original", type=Path, metavar="ORIGINAL")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument(
        "--kind", choices=("auto", *IMPORT), default="auto", help="default: auto, the file tells"
    )
    parser.add_argument(
        "--which",
        choices=("ema", "model"),
        default="ema",
        help="averaged weights (default), or those of training",
    )
    parser.add_argument(
        "--inert",
        action="append",
        default=[],
        metavar="NAME",
        help="a global in the file that may stand for nothing, as package.module.Name; it is not "
        "imported",
    )
    endora = parser.add_argument_group("Endora and Latte")
    endora.add_argument("--heads", type=int, help="attention heads, for sizes off the presets")
    endora.add_argument(
        "--sequential", action="store_true", help="all spatial blocks come before all temporal ones"
    )
    gan = parser.add_argument_group("StyleGAN-V and MoStGAN-V")
    gan.add_argument(
        "--anchor-distance",
        type=int,
        metavar="FRAMES",
        help="between motion codes; by default what the file says",
    )
    gan.add_argument(
        "--motion-modulation",
        choices=get_args(Mode),
        default="released",
        help="MoStGAN-V: how motion changes filters; default: released",
    )
    lvdm = parser.add_argument_group("LVDM")
    lvdm.add_argument(
        "--latent-scale", type=float, metavar="S", help="stage 2 learned S * (latent + B)"
    )
    lvdm.add_argument(
        "--latent-shift",
        type=float,
        metavar="B",
        help="the trainings on endoscopy have S 0.33422927 and B 1.4606637",
    )
    lvdm.add_argument(
        "--autoencoder",
        metavar="FILE.safetensors",
        help="imported stage 1, for a file of stage 2 that has none or for another than its own",
    )
    lvdm.add_argument(
        "--perceptual",
        type=Path,
        metavar="FILE.pt",
        help="write LPIPS out of a file of stage 1, for method.perceptual.weights",
    )
    lvdm.add_argument(
        "--interpolation",
        type=Path,
        metavar="ORIGINAL",
        help="for a network of prediction, the file of that of interpolation: long videos",
    )
    lvdm.add_argument("--size", type=int, default=128, help="pixels a side; default: 128")
    lvdm.add_argument("--frames", type=int, help="of a clip of stage 1; default: 16")
    lvdm.add_argument(
        "--time-factor", type=int, default=4, help="frames in a latent frame; default: 4"
    )
    parser.add_argument(
        "--frame-interval",
        type=int,
        default=1,
        help="source frames from one frame to the next, to note down (not Endora); default: 1",
    )
    return parser


if __name__ == "__main__":
    run_command(main)
