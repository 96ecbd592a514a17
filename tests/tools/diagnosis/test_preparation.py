"""Which videos are learned from, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.diagnosis import DiagnosisConfig, load_diagnosis
from tools.diagnosis.preparation import check_lengths, find_videos, open_reader, split

Settings = Callable[..., list[str]]


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    """A copy of the videos that may be spoilt."""
    return shutil.copytree(videos, tmp_path / "copy")


@pytest.fixture
def configure(settings: Settings, folder: Path, tmp_path: Path) -> Callable[..., DiagnosisConfig]:
    def make(*overrides: str) -> DiagnosisConfig:
        given = [f"data.folder={folder / 'data'}", "data.train_list=train.csv"]
        given += ["data.test_list=test.csv"]
        return load_diagnosis(None, settings(tmp_path, *given, *overrides))

    return make


def test_seeds_choose_other_labels_and_compat_the_first(
    configure: Callable[..., DiagnosisConfig],
) -> None:
    config = configure("unlabelled=rest")
    found = find_videos(config)
    one, other = split(found, config, 0), split(found, config, 1)
    assert one.digest != other.digest
    assert one.digest == split(found, config, 0).digest
    for each in (one, other):
        assert [video.label for video in each.labelled].count(1) == 4
        assert len(each.pool) == 8
        assert not {v.path for v in each.pool} & {v.path for v in each.labelled}
    first = configure("compat=endora")
    for seed in (0, 1):
        names = [video.path.stem for video in split(found, first, seed).labelled]
        assert names == [f"v{k:02d}" for k in range(8)]


def test_pools_of_folders_and_of_the_rest(
    configure: Callable[..., DiagnosisConfig], folder: Path
) -> None:
    config = configure(f"unlabelled=[rest,{folder / 'pool'}]")
    found = find_videos(config)
    pool = split(found, config, 0).pool
    assert len(pool) == 8 + 10
    assert [video.truth for video in found.pool] == [0, 1] * 5  # labels.csv tells, for reports
    assert {video.fps for video in found.pool} == {10.0}
    (folder / "pool" / "labels.csv").unlink()
    assert {video.truth for video in find_videos(config).pool} == {-1}


def spoil_missing(folder: Path) -> None:
    (folder / "data" / "v03.npy").unlink()


def spoil_class(folder: Path) -> None:
    lines = (folder / "data" / "train.csv").read_text().replace(",0", ",1")
    (folder / "data" / "train.csv").write_text(lines)


def spoil_label(folder: Path) -> None:
    lines = (folder / "data" / "train.csv").read_text().replace("v02.npy,0", "v02.npy,2")
    (folder / "data" / "train.csv").write_text(lines)


def spoil_apart(folder: Path) -> None:
    shutil.copy(folder / "data" / "v20.npy", folder / "pool" / "copy.npy")


def spoil_pool(folder: Path) -> None:
    for file in (folder / "pool").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (spoil_missing, [], r"1 of its 16 videos are not in .*such as v03\.npy"),
        (spoil_class, [], "all 16 videos are abnormal"),
        (spoil_label, [], r"line 3: a label is 0 \(normal\) or 1 \(abnormal\), got '2'"),
        (spoil_apart, [], "1 of the unlabelled videos are test videos as well"),
        (spoil_pool, [], "no videos in it"),
        (None, ["data.labelled_per_class=9"], "only 8 are normal"),
        (None, ["data.test_list=missing.csv"], r"missing\.csv: no such list"),
        (None, ["data.test_list=train.csv"], "16 of the train videos are test videos as well"),
        (None, ["unlabelled=nowhere"], "nowhere: no such folder of unlabelled videos"),
    ],
)
def test_videos_that_cannot_be_used(
    configure: Callable[..., DiagnosisConfig],
    folder: Path,
    spoil: Callable[[Path], None] | None,
    overrides: list[str],
    message: str,
) -> None:
    if spoil:
        spoil(folder)
    config = configure(f"unlabelled={folder / 'pool'}", *overrides)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        find_videos(config)
    assert "\n" not in str(error.value)


def test_nothing_is_left_for_rest(configure: Callable[..., DiagnosisConfig]) -> None:
    config = configure("unlabelled=rest", "data.labelled_per_class=8")
    with pytest.raises(ValueError, match=r"unlabelled=rest: data\.labelled_per_class=8 leaves no"):
        split(find_videos(config), config, 0)


def test_short_and_broken_videos_are_found_before_the_first_step(
    configure: Callable[..., DiagnosisConfig], folder: Path
) -> None:
    config = configure(f"unlabelled={folder / 'pool'}", "data.frames=13")
    with pytest.raises(
        ValueError, match="10 of 10 unlabelled videos have fewer frames than the 13"
    ):
        check_lengths(find_videos(config), config, open_reader(config))
    config = configure()
    (folder / "data" / "v17.npy").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"v17\.npy"):
        check_lengths(find_videos(config), config, open_reader(config))
