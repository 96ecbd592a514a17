"""tools.cache as users meet it, and training on what it makes: the same losses as without."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import train
from configs.errors import run_command
from configs.load import load_run
from datasets.cache_index import NAME, read_index, shard_name
from models.registry import method_config
from tools import cache as command
from tools.training.cached import build_for_training
from tools.training.checkpoints import checkpoint_files, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *["--config", str(ROOT / "configs/demo/endora.yaml"), "clip.size=32", "clip.frames=4"],
    "method.codec={name: pixels, weights: null, stride: 8}",
    "method.prior={name: resnet18, weights: untrained, layers: [1, 2], pairs: [0, 1], weight: 0.5}",
    "method.transformer={depth: 4, width: 32, heads: 2, patch: 2}",
    "data.images_per_clip=2",
]
TRAINING = [
    *["train.initial_weights=null", "train.steps=3", "train.batch_size=2", "train.log_every=1"],
    *["train.warmup_steps=0", "train.learning_rate=1e-2", "data.workers=0"],
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 14, 3 and 11 noisy frames, as folders."""
    folder = tmp_path_factory.mktemp("original")
    generator = numpy.random.default_rng(0)
    for video, count in enumerate((14, 3, 11)):
        (folder / str(video)).mkdir()
        for k in range(count):
            pixels = generator.integers(0, 255, (40, 48, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / str(video) / f"{k:03d}.png")
    return folder


@pytest.fixture
def videos(original: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "videos"))


@pytest.fixture
def arguments(videos: Path) -> list[str]:
    """Settings of training and caching alike."""
    return [*SMALL, f"data.folder={videos}"]


def make(arguments: list[str], folder: Path, *more: str) -> None:
    assert command.main([*arguments, "--output", str(folder), *more]) == 0


def refused(main: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says to a mistake."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(partial(main, arguments))  # type: ignore[call-overload]
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def losses(arguments: list[str], output: Path, *more: str) -> list[dict[str, float]]:
    """What a training logged, without what depends on the machine."""
    assert train.main([*arguments, *TRAINING, f"output={output}", *more]) == 0
    with (output / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("loss/denoiser", "mse", "vb", "prior", "gradient_norm/denoiser")
    return [{name: float(row[name]) for name in names} for row in rows]


def weights(output: Path) -> dict[str, torch.Tensor]:
    files = checkpoint_files(output / "checkpoints")
    return read_checkpoint(files[max(files)])["networks"]["denoiser"]


def small_autoencoder(folder: Path) -> str:
    """A variational autoencoder of diffusers with the layout of Stable Diffusion's."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(3)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
        shift_factor=0.1,
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("variational", [False, True])
def test_training_from_a_cache_has_the_losses_of_training_without(
    arguments: list[str], videos: Path, tmp_path: Path, variational: bool
) -> None:
    """Also where neither videos nor weights are there any more, and with data workers."""
    if variational:
        source = small_autoencoder(tmp_path / "vae")
        arguments = [*arguments, f"method.codec={{name: autoencoder, weights: {source}}}"]
    expected = losses(arguments, tmp_path / "online", "train.preview_every=0")
    for dtype in ("fp32", "fp16"):
        make(arguments, tmp_path / dtype, "--dtype", dtype, "--batch", "5")
    if variational:
        shutil.rmtree(tmp_path / "vae")
    videos.rename(tmp_path / "away")
    for dtype, tolerance in (("fp32", 1e-5), ("fp16", 2e-3)):
        found = losses(
            [*arguments, f"data.cache={tmp_path / dtype}", "train.preview_every=3"],
            tmp_path / f"run-{dtype}",
            "data.workers=1",
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=tolerance, abs=1e-6)
        has_preview = (tmp_path / f"run-{dtype}" / "previews").is_dir()
        assert has_preview != variational  # the pixel codec decodes without weights


def test_two_plus_two_cached_steps_equal_four(arguments: list[str], tmp_path: Path) -> None:
    make(arguments, tmp_path / "cache")
    cached = [*arguments, f"data.cache={tmp_path / 'cache'}", "train.preview_every=0"]
    losses(cached, tmp_path / "whole", "train.steps=4")
    losses(cached, tmp_path / "parts", "train.steps=2")
    losses(cached, tmp_path / "parts", "train.steps=4", "data.workers=2")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_frozen_network_is_built_beside_a_cache(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(arguments, tmp_path / "cache")
    monkeypatch.setattr("models.methods.endora.build_codec", None)
    monkeypatch.setattr("models.methods.endora.PriorFeatures", None)
    monkeypatch.setattr("models.methods.endora.prior_grids", None)
    cached = [*arguments[2:], f"data.cache={tmp_path / 'cache'}"]
    config = load_run(Path(arguments[1]), cached, method_config)
    method = build_for_training(config)
    assert method.frozen_networks() == {}
    assert set(method.cached_names()) == {"mean", "prior.0", "prior.1"}
    assert method.build_networks()


def test_a_run_without_the_prior_reads_latents_alone(arguments: list[str], tmp_path: Path) -> None:
    make(arguments, tmp_path / "cache", "--dtype", "fp32")
    plain = [*arguments, "method.prior.weight=0", *TRAINING, "train.preview_every=0"]
    for name, more in (("online", []), ("cached", [f"data.cache={tmp_path / 'cache'}"])):
        assert train.main([*plain, f"output={tmp_path / name}", *more]) == 0
    one, other = weights(tmp_path / "online"), weights(tmp_path / "cached")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_what_it_takes_is_told_before(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(arguments, tmp_path / "cache", "--estimate")
    text = capsys.readouterr().out
    assert "28 frames of 3 videos, from both sides: mean 192x4x4 float16" in text
    assert "about 0:00:0" in text
    assert not (tmp_path / "cache").exists()
    make(arguments, tmp_path / "cache")
    told = (2 * (2 * (192 * 16 + 64 * 64 + 128 * 16) + 3 * 8)) * 28
    files = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.safetensors"))
    assert f"{told / 1e6:.3g} MB in 14 shards" in capsys.readouterr().out
    assert files == pytest.approx(told, rel=0.05)


def test_a_disk_that_is_too_small_is_refused(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "space_left", lambda folder: 100_000)
    text = refused(command.main, [*arguments, "--output", str(tmp_path / "cache")], capsys)
    assert "the cache needs 1.03 MB more and the disk has 100 kB" in text
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_long_checks_are_told(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(arguments, tmp_path / "cache")
    monkeypatch.setattr(command, "REPORT", -1.0)
    capsys.readouterr()
    make(arguments, tmp_path / "cache")
    told = capsys.readouterr().err
    assert "reading all videos once for their checksums" in told
    assert "checked 14/14 shards" in told


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_only_what_is_missing_damaged_or_changed_is_made_anew(
    arguments: list[str], videos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    make(arguments, folder)
    index, before = read_index(folder), times(folder)
    expected = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    (folder / shard_name(2)).unlink()
    damaged = bytearray(expected[shard_name(5)])
    damaged[-1] ^= 255
    (folder / shard_name(5)).write_bytes(damaged)
    (folder / (shard_name(6) + ".partial")).write_bytes(b"half")
    make(arguments, folder)
    after = times(folder)
    remade = {name for name in after if after[name] != before[name]}
    assert remade == {shard_name(2), shard_name(5)}
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == expected
    assert not list(folder.glob("*.partial"))

    shutil.copytree(videos / "1", videos / "9")  # the last video
    make(arguments, folder)
    kept = {name for name, when in times(folder).items() if after.get(name) == when}
    assert kept == after.keys()  # two frames a shard, and the old ones were all full
    assert len(times(folder)) == index.shards + 2
    shutil.rmtree(videos / "9")
    make(arguments, folder)
    assert times(folder) == after


def test_a_cache_of_other_settings_is_replaced_only_when_asked(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    make(arguments, folder)
    before = times(folder)
    for other, named in (
        (["clip.size=64"], "size 32 -> 64"),
        (["data.flip=false"], "flips True -> False"),
        (["method.prior.layers=[2,2]"], "identity.prior.layers [1, 2] -> [2, 2]"),
        (["--dtype", "bf16"], "parts.prior.0 "),
        (["--no-prior"], "networks.prior "),
    ):
        text = refused(command.main, [*arguments, "--output", str(folder), *other], capsys)
        assert "holds a cache made with other settings" in text
        assert named in text
        assert text.endswith("choose another folder, or add --replace")
    assert times(folder) == before
    make(arguments, folder, "data.flip=false", "--replace")
    assert not read_index(folder).flips
    assert "--replace" not in read_index(folder).command


def test_training_refuses_what_the_cache_is_not_of(
    arguments: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    make(arguments, folder)
    training = [*arguments, *TRAINING, f"output={tmp_path / 'run'}", f"data.cache={folder}"]
    for other, named in (
        (["method.codec.stride=4"], "method.codec.stride 8 -> 4"),
        (["method.prior.normalize=none"], "method.prior.normalize imagenet -> none"),
        (["method.prior.name=resnet34"], "method.prior.name resnet18 -> resnet34"),
        (["clip.size=64"], "frames of 32 pixels, clip.size is 64"),
    ):
        text = refused(train.main, [*training, *other], capsys)
        assert named in text
        assert "python -m tools.cache --config" in text
    (videos / "0" / "000.png").write_bytes((videos / "0" / "001.png").read_bytes())
    text = refused(train.main, training, capsys)
    assert "1 changed (0)" in text
    assert f"--output {folder}" in text
    toy = ["--config", str(ROOT / "configs/demo/toy.yaml"), f"data.cache={folder}"]
    assert "toy works on pixels" in refused(train.main, toy, capsys)
    latents = [*arguments, "--output", str(folder), "--no-prior", "--replace"]
    assert command.main(latents) == 0
    assert "it holds nothing of the prior" in refused(train.main, training, capsys)


def test_weights_count_by_their_content(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another place does not matter, another content does, whatever the name."""
    timm = pytest.importorskip("timm")
    file = tmp_path / "prior.pth"
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    ours = [*arguments, f"method.prior.weights={file}"]
    folder = tmp_path / "cache"
    make(ours, folder)
    cached = [*TRAINING, "train.preview_every=0", f"data.cache={folder}"]
    moved = shutil.copy(file, tmp_path / "moved.pth")
    run = [*ours, *cached, f"method.prior.weights={moved}", f"output={tmp_path / 'moved'}"]
    assert train.main(run) == 0
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    run = [*ours, *cached, f"output={tmp_path / 'other'}"]
    assert f"{file} is another file now" in refused(train.main, run, capsys)
    untrained = [*run, "method.prior.weights=untrained"]
    assert f"method.prior.weights {file} -> untrained" in refused(train.main, untrained, capsys)


def test_values_beyond_the_type_are_refused(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from models.methods.endora import Endora

    plain = Endora.cached_parts

    def huge(self: Endora, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = plain(self, frames)
        return {**parts, "prior.1": parts["prior.1"] + 1e5}

    monkeypatch.setattr(Endora, "cached_parts", huge)
    text = refused(command.main, [*arguments, "--output", str(tmp_path / "cache")], capsys)
    assert "prior.1 has values that float16 cannot hold; try --dtype bf16" in text
    make(arguments, tmp_path / "cache", "--replace", "--dtype", "bf16")
    parts = read_index(tmp_path / "cache").parts
    assert {name: part.dtype for name, part in parts.items()} == {
        "mean": "float16",
        "prior.0": "bfloat16",
        "prior.1": "bfloat16",
    }


def start(arguments: list[str], folder: Path, processes: int = 0) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.Popen(
        [
            *[sys.executable, *(launcher if processes else []), "-m", "tools.cache"],
            *[*arguments, "--output", str(folder)],
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_and_a_kill_make_the_cache_of_one(
    arguments: list[str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    make(arguments, one, "--batch", "1")
    arguments = [*arguments, "--batch", "1"]
    process = start(arguments, two, processes=2)
    try:
        deadline = time.monotonic() + 120
        while len(times(two)) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = times(two)
    assert len(finished) >= 3
    if json.loads((two / NAME).read_text())["shard_bytes"]:
        pytest.skip("it was done before the kill")
    process = start(arguments, two, processes=2)
    assert process.wait(timeout=120) == 0
    assert finished.items() <= times(two).items()
    assert not list(two.glob("*.partial"))
    for path in one.glob("*.safetensors"):
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert read_index(two).is_complete
