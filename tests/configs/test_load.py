from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from configs.load import from_plain, load_run, load_sampling, merge_sources, to_plain, to_yaml
from configs.schema import MethodConfig, RunConfig, SamplingConfig


@dataclass
class FlowConfig(MethodConfig):
    width: int = 32


def flow(name: str) -> type[MethodConfig]:
    """The settings class of the only method of these tests."""
    return FlowConfig


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A settings file with a value in every section."""
    path = tmp_path / "base.yaml"
    path.write_text(
        "method_name: flow\noutput: runs/base\nclip: {frames: 8}\ndata: {folder: data/x}\n"
        "method: {width: 16}\ntrain: {learning_rate: 1e-3, ema_decays: [0.9, 0.99]}\n"
    )
    return path


def test_file_and_command_line_replace_defaults_in_turn(base: Path) -> None:
    config = load_run(base, ["clip.size=64", "method.width=8", "train.betas=[0.5,0.9]"], flow)
    assert (config.clip.frames, config.clip.size, config.clip.frame_interval) == (8, 64, 3)
    assert config.method == FlowConfig(width=8)
    assert config.train.learning_rate == 1e-3
    assert tuple(config.train.betas) == (0.5, 0.9)
    assert type(config) is RunConfig


def test_a_file_may_build_on_others(base: Path) -> None:
    middle, last = base.parent / "sub" / "middle.yaml", base.parent / "last.yaml"
    middle.parent.mkdir()
    middle.write_text("base: ../base.yaml\nclip: {frames: 4}\nmethod: {width: 2}\n")
    last.write_text("base: sub/middle.yaml\nmethod: {width: 3}\n")
    config = load_run(last, [], flow)
    assert (config.clip.frames, config.method, config.output) == (4, FlowConfig(3), "runs/base")


MISTAKES = {
    "train.lerning_rate=1": r"train\.lerning_rate: unknown key; did you mean train\.learning_rate",
    "method.height=1": r"method\.height: unknown key; known here: width",
    "trian.steps=1": r"trian: unknown key; did you mean train\?",
    "train.steps=many": r"train\.steps: .*'many'",
    "train.steps=1.5": r"train\.steps: .*1\.5",
    "data.flip=perhaps": r"data\.flip: ",
    "train.precision=fp8": r"train\.precision: .*fp32",
    "clip.frames=1": r"clip\.frames: a video needs at least 2 frames, got 1",
    "train.ema_decays=[]": r"train\.ema_decays: name at least one decay",
    "train.ema_decays=[1.5]": r"train\.ema_decays: each in \[0, 1\), got 1\.5",
    "train.learning_rate=0": r"train\.learning_rate: above 0",
    "data.workers=-1": r"data\.workers: 0 or more, got -1",
    "steps": r"'steps' is not of the form key=value",
    "train.ema_decays=[": r"command line: ",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(base: Path, override: str) -> None:
    with pytest.raises(ValueError, match=MISTAKES[override]) as error:
        load_run(base, [override], flow)
    assert "\n" not in str(error.value)


def test_a_value_that_must_be_given_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("method_name: flow\n")
    with pytest.raises(ValueError, match=r"bare\.yaml: data\.folder, output: no value given"):
        load_run(path, [], flow)
    path.write_text("output: x\n")
    with pytest.raises(ValueError, match="method_name: say which method to train"):
        load_run(path, [], flow)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "not readable as YAML"),
        (b"- 1\n- 2\n", "expected `key: value` lines"),
        (b"\xff\xfe\x00a", "not readable as YAML"),
        (b"base: broken.yaml\n", "the files name each other in a circle"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        merge_sources(path, [])
    assert "broken.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such settings file"):
        merge_sources(tmp_path / "absent.yaml", [])


def test_settings_survive_the_way_through_a_checkpoint(base: Path) -> None:
    config = load_run(base, [], flow)
    plain = to_plain(config)
    assert plain["train"]["betas"] == [0.9, 0.999]  # no tuples: plain values only
    assert yaml.safe_load(to_yaml(config)) == plain
    again = from_plain(RunConfig(method=FlowConfig()), plain)
    assert to_plain(again) == plain
    with pytest.raises(ValueError, match="evil: unknown key"):
        from_plain(RunConfig(method=FlowConfig()), {**plain, "evil": 1})


def test_sampling_settings_know_the_choices_of_the_method() -> None:
    @dataclass
    class Choices(SamplingConfig):
        steps: int = 10

    config = load_sampling(None, ["checkpoint=x", "sampling.steps=3"], Choices())
    assert config.sampling == Choices(3)
    with pytest.raises(ValueError, match=r"sampling\.stebs: unknown key; did you mean"):
        load_sampling(None, ["checkpoint=x", "sampling.stebs=3"], Choices())
