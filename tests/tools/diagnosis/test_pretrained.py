"""Published weights: their names, the network they describe, and files that do not fit.

What a checkpoint in the published layout means is computed here a second time, token by token,
from its own names.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tools.diagnosis import classifier as network
from tools.diagnosis.classifier import Sizes, VideoClassifier
from tools.diagnosis.pretrained import load_pretrained, resized_places, resized_times

State = dict[str, Tensor]
WIDTH, HEADS, PATCH, SIDE = 12, 3, 8, 16


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take no time: two blocks, and the twelve that the published ones have."""
    sizes = {
        "two": Sizes(width=WIDTH, depth=2, heads=HEADS, patch=PATCH),
        "twelve": Sizes(width=WIDTH, depth=12, heads=HEADS, patch=PATCH),
        "wide": Sizes(width=2 * WIDTH, depth=2, heads=HEADS, patch=PATCH),
        "coarse": Sizes(width=WIDTH, depth=2, heads=HEADS, patch=2 * PATCH),
    }
    for name, size in sizes.items():
        monkeypatch.setitem(network.SIZES, name, size)


def original_names(depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of an image transformer as published."""
    yield "cls_token", (1, 1, WIDTH)
    yield "pos_embed", (1, 1 + (SIDE // PATCH) ** 2, WIDTH)
    yield "patch_embed.proj.weight", (WIDTH, 3, PATCH, PATCH)
    yield "patch_embed.proj.bias", (WIDTH,)
    for k in range(depth):
        for layer, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            yield f"blocks.{k}.{layer}.weight", (rows, columns)
            yield f"blocks.{k}.{layer}.bias", (rows,)
        for layer in ("norm1", "norm2"):
            yield f"blocks.{k}.{layer}.weight", (WIDTH,)
            yield f"blocks.{k}.{layer}.bias", (WIDTH,)
    yield "norm.weight", (WIDTH,)
    yield "norm.bias", (WIDTH,)


def temporal_names(depth: int, frames: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What a video transformer has besides."""
    yield "time_embed", (1, frames, WIDTH)
    for k in range(depth):
        yield f"blocks.{k}.temporal_norm1.weight", (WIDTH,)
        yield f"blocks.{k}.temporal_norm1.bias", (WIDTH,)
        yield f"blocks.{k}.temporal_attn.qkv.weight", (3 * WIDTH, WIDTH)
        yield f"blocks.{k}.temporal_attn.qkv.bias", (3 * WIDTH,)
        for layer in ("temporal_attn.proj", "temporal_fc"):
            yield f"blocks.{k}.{layer}.weight", (WIDTH, WIDTH)
            yield f"blocks.{k}.{layer}.bias", (WIDTH,)


def published(depth: int = 2, frames: int | None = 3, seed: int = 0) -> State:
    """Random weights in the published layout, of videos or (frames None) of images."""
    generator = torch.Generator().manual_seed(seed)
    names = [*original_names(depth), *(temporal_names(depth, frames) if frames else ())]
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in names}


def saved(path: Path, state: State, wrapper: str = "backbone.") -> Path:
    """As SVT publishes it: a teacher with a projection head, among other things."""
    teacher = {f"{wrapper}{name}": tensor for name, tensor in state.items()}
    teacher |= {"head.mlp.0.weight": torch.zeros(4, WIDTH), "head.mlp.0.bias": torch.zeros(4)}
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 20}, path)
    return path


# ---------------------------------------------------------------- the slow implementation


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / (centred.square().mean() + 1e-6).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(state: State, name: str, tokens: list[Tensor]) -> list[Tensor]:
    """Self-attention of a list of vectors (D,), one head and one query after the other."""
    parts = [linear(state, f"{name}.qkv", token).view(3, HEADS, WIDTH // HEADS) for token in tokens]
    results = []
    for own in parts:
        heads = []
        for head in range(HEADS):
            scores = torch.stack([own[0, head] @ other[1, head] for other in parts])
            weights = (scores / math.sqrt(WIDTH // HEADS)).exp()
            values = torch.stack([other[2, head] for other in parts])
            heads.append((weights[:, None] * values).sum(0) / weights.sum())
        results.append(linear(state, f"{name}.proj", torch.cat(heads)))
    return results


def mlp(state: State, block: str, x: Tensor) -> Tensor:
    inner = linear(state, f"{block}.mlp.fc1", norm(state, f"{block}.norm2", x))
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return x + linear(state, f"{block}.mlp.fc2", inner)


def slow_features(state: State, depth: int, clip: Tensor) -> Tensor:
    """Features (D,) of one clip (T, 3, S, S): for every token what the equations say."""
    frames, side = len(clip), clip.shape[-1] // PATCH
    grid: list[list[Tensor]] = []
    for t in range(frames):
        row = []
        for n in range(side * side):
            top, left = n // side * PATCH, n % side * PATCH
            pixels = clip[t, :, top : top + PATCH, left : left + PATCH]
            patch = (state["patch_embed.proj.weight"] * pixels).sum((1, 2, 3))
            patch = patch + state["patch_embed.proj.bias"] + state["pos_embed"][0, 1 + n]
            row.append(patch + state["time_embed"][0, t])
        grid.append(row)
    token = state["cls_token"][0, 0] + state["pos_embed"][0, 0]
    for k in range(depth):
        block = f"blocks.{k}"
        for n in range(side * side):
            along = [norm(state, f"{block}.temporal_norm1", grid[t][n]) for t in range(frames)]
            for t, seen in enumerate(attend(state, f"{block}.temporal_attn", along)):
                grid[t][n] = grid[t][n] + linear(state, f"{block}.temporal_fc", seen)
        changes = []
        for t in range(frames):
            seen_by_all = [norm(state, f"{block}.norm1", x) for x in (token, *grid[t])]
            first, *others = attend(state, f"{block}.attn", seen_by_all)
            changes.append(first)
            grid[t] = [x + change for x, change in zip(grid[t], others, strict=True)]
        token = token + sum(changes) / frames
        grid = [[mlp(state, block, x) for x in row] for row in grid]
        token = mlp(state, block, token)
    return norm(state, "norm", token)


# ---------------------------------------------------------------- the key map


def test_published_weights_mean_what_the_equations_say(tmp_path: Path) -> None:
    state = published(depth=2, frames=3)
    classifier = VideoClassifier("two", frames=3, image_size=SIDE).double().eval()
    load_pretrained(classifier, saved(tmp_path / "weights.pth", state))
    exact = {name: tensor.double() for name, tensor in state.items()}
    clips = torch.randn(2, 3, 3, SIDE, SIDE, dtype=torch.float64)
    expected = torch.stack([slow_features(exact, 2, clip) for clip in clips])
    found = classifier.features(clips)
    assert expected.abs().max() > 0.5
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.allclose(classifier.features(clips.flip(1)), expected, atol=1e-3)


def test_counts_of_a_transformer_of_twelve_blocks(tmp_path: Path) -> None:
    state = published(depth=12, frames=8)
    assert len(state) == 247
    classifier = VideoClassifier("twelve", frames=8, image_size=SIDE)
    path = saved(tmp_path / "weights.pth", state)
    imported = load_pretrained(classifier, path)
    assert (imported.spatial, imported.temporal) == (150, 97)
    assert imported.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_of_images_fill_the_spatial_part_alone(tmp_path: Path) -> None:
    state = published(depth=12, frames=None)
    classifier = VideoClassifier("twelve", frames=4, image_size=SIDE).eval()
    torch.save(state | {"head.weight": torch.zeros(7, WIDTH)}, tmp_path / "dino.pth")
    imported = load_pretrained(classifier, tmp_path / "dino.pth")
    assert (imported.spatial, imported.temporal) == (150, 0)
    image_model = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=12, num_heads=HEADS, num_classes=0
    ).eval()
    image_model.load_state_dict(state, strict=True)
    frame = torch.randn(2, 3, SIDE, SIDE)
    still = frame[:, None].expand(-1, 4, -1, -1, -1)
    assert torch.allclose(classifier.features(still), image_model(frame), atol=4e-6)


def test_the_order_of_frames_is_nothing_to_an_image_model(tmp_path: Path) -> None:
    classifier = VideoClassifier("two", frames=4, image_size=SIDE).eval()
    torch.save(published(frames=None), tmp_path / "dino.pth")
    load_pretrained(classifier, tmp_path / "dino.pth")
    clip = torch.randn(1, 4, 3, SIDE, SIDE)
    shuffled = classifier.features(clip[:, [2, 0, 3, 1]])
    assert torch.allclose(classifier.features(clip), shuffled, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "module", "model", "namespace", "half", "safetensors"])
def test_weights_in_other_containers(tmp_path: Path, kind: str) -> None:
    state = published()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "module":
        saved(path, state, wrapper="module.backbone.")
    elif kind == "half":
        torch.save({"model_state": {name: tensor.half() for name, tensor in state.items()}}, path)
    else:
        content = {
            "plain": state,
            "model": {"model": state, "optimizer": {}},
            "namespace": {"teacher": state, "args": argparse.Namespace(lr=1.0)},
        }[kind]
        torch.save(content, path)
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    load_pretrained(classifier, path)
    parameters = dict(classifier.named_parameters())
    wanted = state["blocks.1.temporal_attn.qkv.weight"]
    if kind == "half":
        wanted = wanted.half().float()
    assert torch.equal(parameters["temporal.1.qkv.weight"], wanted)


def test_the_head_stays_as_it_was(tmp_path: Path) -> None:
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    before = classifier.head.weight.clone()
    load_pretrained(classifier, saved(tmp_path / "weights.pth", published()))
    assert torch.equal(classifier.head.weight, before)
    assert all(parameter.requires_grad for parameter in classifier.parameters())


# ---------------------------------------------------------------- other sizes of clips


def test_larger_clips_get_larger_tables(tmp_path: Path) -> None:
    state = published()
    classifier = VideoClassifier("two", frames=5, image_size=2 * SIDE)
    load_pretrained(classifier, saved(tmp_path / "weights.pth", state))
    tables = dict(classifier.named_parameters())
    places, times = tables["spatial.pos_embed"], tables["time_embed"]
    assert torch.equal(places[:, 0], state["pos_embed"][:, 0])
    old = state["pos_embed"][0, 1:].T.reshape(1, WIDTH, 2, 2)
    wanted = F.interpolate(old, size=(4, 4), mode="bicubic")[0].reshape(WIDTH, 16).T
    assert torch.allclose(places[0, 1:], wanted, atol=1e-6)
    assert torch.allclose(times[:, 2], state["time_embed"][:, 1], atol=1e-6)  # the middle
    between = 0.4 * state["time_embed"][:, 1] + 0.6 * state["time_embed"][:, 2]
    assert torch.allclose(times[:, 3], between, atol=1e-6)


def test_tables_of_the_right_length_are_not_touched() -> None:
    places, times = torch.randn(1, 10, 4), torch.randn(1, 8, 4)
    assert torch.equal(resized_places(places, 10), places)
    assert torch.equal(resized_times(times, 8), times)


def test_flat_tables_stay_flat() -> None:
    assert torch.allclose(resized_places(torch.full((1, 10, 4), 0.7), 26), torch.tensor(0.7))
    assert torch.allclose(resized_times(torch.full((1, 8, 4), 0.7), 5), torch.tensor(0.7))


# ---------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("wide", r"spatial.cls_token is \(1, 1, 12\), the network has \(1, 1, 24\)"),
        ("twelve", r"200 of 247 tensors are missing, the first is spatial.blocks.2.norm1.weight"),
        ("coarse", r"spatial.patch_embed.proj.weight is \(12, 3, 8, 8\), the network has"),
    ],
)
def test_weights_of_another_size_are_refused(tmp_path: Path, size: str, message: str) -> None:
    classifier = VideoClassifier(size, frames=3, image_size=SIDE)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(classifier, saved(tmp_path / "weights.pth", published()))
    assert "weights.pth" in str(caught.value)
    assert "network.size=two would fit" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[k]) for k, tensor in classifier.state_dict().items())


def test_a_deeper_checkpoint_is_refused(tmp_path: Path) -> None:
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    with pytest.raises(ValueError, match=r"no place in the network, the first is \w+.*\.2\."):
        load_pretrained(classifier, saved(tmp_path / "weights.pth", published(depth=3)))


def test_weights_that_no_size_fits_say_so(tmp_path: Path) -> None:
    classifier = VideoClassifier("wide", frames=3, image_size=SIDE)
    with pytest.raises(ValueError, match=r"width 12, 3 blocks, patches of 8.*no network.size fits"):
        load_pretrained(classifier, saved(tmp_path / "weights.pth", published(depth=3)))


def test_part_of_a_temporal_part_is_refused(tmp_path: Path) -> None:
    state = published()
    del state["blocks.1.temporal_fc.bias"]
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    with pytest.raises(ValueError, match=r"1 of 47 tensors are missing, .* temporal.1.fc.bias"):
        load_pretrained(classifier, saved(tmp_path / "weights.pth", state))


def test_odd_tables_and_numbers_are_refused(tmp_path: Path) -> None:
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    path = tmp_path / "weights.pth"
    distilled = published()
    distilled["pos_embed"] = torch.zeros(1, 6, WIDTH)  # two tokens before the places
    with pytest.raises(ValueError, match=r"spatial.pos_embed is \(1, 6, 12\), the network has"):
        load_pretrained(classifier, saved(path, distilled))
    broken = published()
    broken["norm.bias"][3] = float("nan")
    with pytest.raises(ValueError, match=r"spatial.norm.bias has numbers that are not finite"):
        load_pretrained(classifier, saved(path, broken))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"weights.pth: not a checkpoint"):
        load_pretrained(classifier, path)


class Dangerous:
    """Pickled, it would call a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def test_files_that_are_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = VideoClassifier("two", frames=3, image_size=SIDE)
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match=r"network.weights: .*no such file"):
        load_pretrained(classifier, path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_pretrained(classifier, path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="a list, not a checkpoint"):
        load_pretrained(classifier, path)
    torch.save({"fc1.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no weights of a vision transformer"):
        load_pretrained(classifier, path)
    torch.save({"teacher": published(), "evil": Dangerous()}, path)
    with pytest.raises(ValueError, match="not a checkpoint that opens in safe mode"):
        load_pretrained(classifier, path)
    path.with_suffix(".safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not a readable weight file"):
        load_pretrained(classifier, path.with_suffix(".safetensors"))
    assert "run" not in capsys.readouterr().out
