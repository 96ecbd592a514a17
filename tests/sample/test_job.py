"""What a job promises: videos belong to seeds, finished ones stay, other settings are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.interface import VideoNoise
from models.methods.toy import Toy
from sample import job, sample
from sample.record import check_record, content_hash


def run(weights: Path, output: Path, *settings: str) -> None:
    """Run the command in this process, on lossless files."""
    sample.main(["--checkpoint", str(weights), f"output={output}", "formats=[npz]", *settings])


def videos(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file)["video"] for file in sorted(folder.glob("[0-9]*.npz"))}


def test_video_k_depends_on_its_seed_alone(weights: Path, tmp_path: Path) -> None:
    run(weights, tmp_path / "a", "count=5", "batch_size=1", "seed=10")
    run(weights, tmp_path / "b", "count=5", "batch_size=4", "seed=10")
    run(weights, tmp_path / "c", "count=1", "seed=13")
    first, second = videos(tmp_path / "a"), videos(tmp_path / "b")
    assert list(first) == [f"{k:06d}" for k in range(5)]
    for name, video in first.items():
        np.testing.assert_array_equal(video, second[name])
    np.testing.assert_array_equal(first["000003"], videos(tmp_path / "c")["000000"])
    assert not np.array_equal(first["000000"], first["000001"])


def test_a_second_run_makes_only_what_is_missing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    run(weights, output, "count=4")
    before = videos(output)
    untouched = (output / "000002.npz").stat().st_mtime_ns
    (output / "000001.npz").unlink()
    made = record_seeds(monkeypatch)
    run(weights, output, "count=6", "batch_size=3")
    assert made == [1, 4, 5]
    assert (output / "000002.npz").stat().st_mtime_ns == untouched
    after = videos(output)
    assert len(after) == 6
    for name, video in before.items():
        np.testing.assert_array_equal(after[name], video)


def test_a_finished_job_samples_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(weights, tmp_path / "out", "count=2")
    made = record_seeds(monkeypatch)
    run(weights, tmp_path / "out", "count=2")
    assert made == []


def test_a_format_can_be_added_later(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(weights, output, "count=2")
    sample.main(
        ["--checkpoint", str(weights), f"output={output}", "count=2", "formats=[npz,png,mp4,gif]"]
    )
    names = {path.name for path in output.iterdir()}
    assert {f"{k:06d}{end}" for k in range(2) for end in ("", ".npz", ".mp4", ".gif")} <= names


def test_the_record_tells_how_the_videos_were_made(weights: Path, tmp_path: Path) -> None:
    run(weights, tmp_path / "out", "count=3", "seed=5", "sampling.strength=0.5")
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["complete"] is True
    assert record["videos"] == {"000000": 5, "000001": 6, "000002": 7}
    how = record["made_by"]
    assert (how["method"], how["step"], how["precision"]) == ("toy", 7, "fp32")
    assert how["sampling"] == {"strength": 0.5}
    assert len(how["weights_sha256"]) == 64
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_the_record_tells_the_parts_of_videos(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "samples.json"

    def parts() -> object:
        return json.loads(path.read_text())["parts"]

    run(weights, tmp_path / "out", "count=1")
    frames = len(videos(tmp_path / "out")["000000"])
    whole = {"clip_frames": frames, "frames": frames, "seams": []}
    assert parts() == whole
    run(weights, tmp_path / "out", "count=1")  # makes none, so that no method is asked
    assert parts() == whole
    earlier = json.loads(path.read_text())
    del earlier["parts"]  # as before they were told
    path.write_text(json.dumps(earlier))
    run(weights, tmp_path / "out", "count=1")
    assert parts() is None
    monkeypatch.setattr(Toy, "seams", lambda self, settings, frames=None: [1])
    run(weights, tmp_path / "out", "count=2")
    assert parts() == {**whole, "seams": [1]}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=1", "seed: 0 there, 1 now"),
        ("sampling.strength=2.0", r"sampling\.strength: 1\.0 there, 2\.0 now"),
        ("fps=10.0", r"fps: 8\.0 there, 10\.0 now"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    weights: Path, tmp_path: Path, setting: str, message: str
) -> None:
    run(weights, tmp_path / "out", "count=2")
    with pytest.raises(ValueError, match=message):
        run(weights, tmp_path / "out", "count=2", setting)


def test_naming_the_length_of_a_clip_is_the_default(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(weights, tmp_path / "out", "count=2")
    made = record_seeds(monkeypatch)
    run(weights, tmp_path / "out", "count=3", "frames=4")
    assert made == [2]


def test_a_record_from_before_a_choice_was_there_means_its_default(tmp_path: Path) -> None:
    defaults = {"steps": 250, "reuse": 0.0}
    (tmp_path / "000000.mp4").touch()
    (tmp_path / "samples.json").write_text('{"made_by": {"sampling": {"steps": 20}}}')
    check_record(tmp_path, {"sampling": {"steps": 20, "reuse": 0.0}}, defaults)
    with pytest.raises(ValueError, match=r"sampling\.reuse: 0\.0 there, 0\.1 now"):
        check_record(tmp_path, {"sampling": {"steps": 20, "reuse": 0.1}}, defaults)


def test_a_folder_of_other_weights_is_refused(
    weights: Path, tmp_path: Path, write_toy: Callable[..., Path]
) -> None:
    run(weights, tmp_path / "out", "count=1")
    other = write_toy(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match=r"weights_sha256: .* there"):
        run(other, tmp_path / "out", "count=1")


def test_a_folder_with_numbered_files_but_no_record_is_refused(
    weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000000.mp4").write_bytes(b"somebody's video")
    with pytest.raises(ValueError, match="holds numbered files but no samples"):
        run(weights, tmp_path / "out")
    assert (tmp_path / "out" / "000000.mp4").read_bytes() == b"somebody's video"


def test_a_damaged_record_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples.json").write_text("{")
    (tmp_path / "out" / "000000.npz").touch()
    with pytest.raises(ValueError, match="not a record of samples"):
        run(weights, tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cout=3", r"cout: unknown key; did you mean count\?"),
        ("sampling.strenght=3", r"did you mean sampling\.strength\?"),
        ("formats=[avi]", "formats"),
        ("count=0", "count: at least 1 video"),
        ("ema=3", "ema=3"),
    ],
)
def test_wrong_settings_are_named(
    weights: Path, tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        sample.main(["--checkpoint", str(weights), f"output={tmp_path / 'out'}", setting])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_or_unnamed_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--checkpoint PATH"):
        sample.main([])
    with pytest.raises(FileNotFoundError, match="nothing"):
        sample.main(["--checkpoint", str(tmp_path / "nothing")])


def test_pixels_that_are_not_finite_are_an_error(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Toy, networks: object, noise: VideoNoise, *others: object) -> torch.Tensor:
        return torch.full(self.shape.batch(len(noise)), float("nan"))

    monkeypatch.setattr(Toy, "sample", broken)
    with pytest.raises(FloatingPointError, match="seed 0 has pixels that are not finite"):
        run(weights, tmp_path / "out")
    assert not list((tmp_path / "out").glob("0*"))
    monkeypatch.undo()  # a folder without videos is no obstacle to other settings
    run(weights, tmp_path / "out", "sampling.strength=0.5")
    assert videos(tmp_path / "out")


def test_weights_are_read_and_hashed_once(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("read_weights", "content_hash"):

        def counting(
            *given: object, name: str = name, plain: object = getattr(job, name)
        ) -> object:
            calls.append(name)
            return plain(*given)  # type: ignore[operator]

        monkeypatch.setattr(job, name, counting)
    run(weights, tmp_path / "out", "count=3", "batch_size=1")
    assert sorted(calls) == ["content_hash", "read_weights"]


def test_compiled_networks_see_one_batch_size(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(job, "compile_regions", compiled.append)
    monkeypatch.setattr(job, "wants_compiling", lambda setting, device: True)
    seeds = record_seeds(monkeypatch)
    run(weights, tmp_path / "plain", "count=5", "batch_size=2", "compile=auto")
    assert not compiled  # too few videos for it
    assert seeds == [0, 1, 2, 3, 4]
    seeds.clear()
    run(weights, tmp_path / "out", "count=5", "batch_size=2", "compile=true")
    assert len(compiled) == 1
    assert seeds == [0, 1, 2, 3, 4, 4]
    made = videos(tmp_path / "out")
    assert len(made) == 5
    for name, video in videos(tmp_path / "plain").items():
        np.testing.assert_array_equal(made[name], video)
    with pytest.raises(ValueError, match="compile: true, false or auto"):
        run(weights, tmp_path / "no", "compile=fast")


def test_samples_go_to_a_folder_of_their_step_by_default(weights: Path) -> None:
    sample.main(["--checkpoint", str(weights), "count=1"])
    assert (weights.parent / "samples" / "step_00000007" / "000000.mp4").is_file()


def test_the_hash_is_of_names_and_values() -> None:
    values = torch.arange(6.0)
    original = content_hash({"net": {"a": values, "b": values}})
    assert original == content_hash({"net": {"b": values.clone(), "a": values}})
    assert original != content_hash({"net": {"a": values, "c": values}})
    assert original != content_hash({"net": {"a": values + 1, "b": values}})
    assert original != content_hash({"net": {"a": values.reshape(2, 3), "b": values}})


def record_seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all videos that are made from now on."""
    seeds: list[int] = []
    draw = Toy.sample

    def sample_and_note(self: Toy, networks: object, noise: VideoNoise, *others: object) -> object:
        seeds.extend(generator.initial_seed() for generator in noise.generators)
        return draw(self, networks, noise, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Toy, "sample", sample_and_note)
    return seeds
