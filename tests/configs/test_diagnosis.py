"""Settings of diagnosis: files, words, and the published experiment by one switch."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.diagnosis import COMPAT, DiagnosisConfig, load_diagnosis
from configs.load import to_plain

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "configs" / "downstream" / f"{name}.yaml" for name in ("demo", "polypdiag")]


def value_of(config: DiagnosisConfig, key: str) -> object:
    section, name = key.split(".")
    return to_plain(config)[section][name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_settings_are_complete(path: Path) -> None:
    config = load_diagnosis(path, [])
    assert config.seeds == [0, 1, 2, 3, 4]
    assert config.method == "supervised"
    assert load_diagnosis(path, ["unlabelled=samples"]).method == "fixmatch"


def test_compat_stands_above_the_file_and_below_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("output: x\ndata: {folder: y, choice: random}\ncompat: endora\n")
    config = load_diagnosis(file, ["train.loss_on=strong"])
    assert value_of(config, "train.loss_on") == "strong"
    assert value_of(config, "data.choice") == "first"
    for key in COMPAT.keys() - {"train.loss_on"}:
        assert value_of(config, key) == COMPAT[key], key


def test_compat_is_200_steps_of_the_published_rate() -> None:
    config = load_diagnosis(ROOT / "configs/downstream/polypdiag.yaml", ["compat=endora"])
    assert config.steps == 200
    assert config.train.learning_rate == pytest.approx(1.56e-5, rel=2e-3)


def given(*overrides: str) -> DiagnosisConfig:
    return load_diagnosis(None, ["output=x", "data.folder=y", *overrides])


def test_words_for_unlabelled() -> None:
    assert given().pools == []
    assert given("unlabelled=none").pools == []
    assert given("unlabelled=null").pools == []
    assert given("unlabelled=rest").pools == ["rest"]
    assert given("unlabelled=[rest,a/b]").pools == ["rest", "a/b"]
    assert given("unlabelled=a").method == "fixmatch"
    assert given("unlabelled=a", "algorithm=supervised").method == "supervised"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("unlabelled=[a,none]", "unlabelled: none, rest, a folder or a list"),
        ("unlabelled=[a,a]", "unlabelled: each once"),
        ("unlabelled=3", "unlabelled: none, rest, a folder or a list"),
        ("seeds=[]", "seeds: name at least one"),
        ("seeds=[1,1]", "seeds: each once"),
        ("seeds=[-1]", "seeds: 0 or more"),
        ("algorithm=mixmatch", "algorithm"),
        ("data.frames=0", r"data\.frames: at least 1"),
        ("data.window_seconds=0", r"data\.window_seconds: above 0"),
        ("train.steps=0", r"train\.steps: at least 1"),
        ("train.ema_decay=1", r"train\.ema_decay: in \[0, 1\)"),
        ("train.threshhold=0.9", r"did you mean train\.threshold"),
        ("network.drop_path=1", r"network\.drop_path: in \[0, 1\)"),
        ("evaluate.windows=0", r"evaluate\.windows: at least 1"),
        ("comatch.temperature=0", r"comatch\.temperature: above 0"),
    ],
)
def test_settings_that_cannot_be(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        given(override)
    assert "\n" not in str(error.value)


def test_comatch_has_no_published_mistake() -> None:
    with pytest.raises(ValueError, match="algorithm=comatch teaches the strong view"):
        given("algorithm=comatch", "unlabelled=a", "compat=endora")
