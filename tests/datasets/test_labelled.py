"""Lists of labelled videos, subsets of them, and sets that must share nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.labelled import (
    LabelledVideo,
    choose_labelled,
    open_video,
    read_labelled,
    require_apart,
    shared_files,
    unlabelled_videos,
)

Data = Callable[..., tuple[Path, Path]]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """A folder with small stand-ins for videos, and a list of the given text."""

    def make(text: str, *, below: str = "videos", files: tuple[str, ...] = ()) -> tuple[Path, Path]:
        for name in files or ("a.mp4", "b.mp4", "c.mp4"):
            path = tmp_path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        list_file = tmp_path / "train.txt"
        list_file.write_text(text)
        return tmp_path, list_file

    return make


def test_a_published_list_is_read_in_its_order(data: Data) -> None:
    folder, list_file = data("b.mp4,1\na.mp4,0\n\n# a comment\nc.mp4,1\n")
    assert read_labelled(folder, list_file) == [
        LabelledVideo(folder / "videos" / "b.mp4", 1),
        LabelledVideo(folder / "videos" / "a.mp4", 0),
        LabelledVideo(folder / "videos" / "c.mp4", 1),
    ]


@pytest.mark.parametrize("text", ["a.mp4, 0\r\nb.mp4 ,1\r\n", "\ufeffa.mp4,0\nb.mp4,1"])
def test_lists_of_other_systems_are_read_too(data: Data, text: str) -> None:
    folder, list_file = data(text)
    assert [video.label for video in read_labelled(folder, list_file)] == [0, 1]


def test_a_list_that_is_no_text_names_its_file(data: Data) -> None:
    folder, list_file = data("")
    list_file.write_bytes(b"a.mp4,0\n\xff\xfe")
    with pytest.raises(ValueError, match=r"train\.txt: not a list of videos"):
        read_labelled(folder, list_file)


def test_a_table_with_more_columns_and_names_without_suffix(data: Data) -> None:
    text = "name,style,label,seed\na,col,0,7\nb,col,1,1\n"
    folder, list_file = data(text, below="")
    assert read_labelled(folder, list_file) == [
        LabelledVideo(folder / "a.mp4", 0),
        LabelledVideo(folder / "b.mp4", 1),
    ]


def test_names_with_dots_and_folders(data: Data) -> None:
    folder, list_file = data("x/v1.2,0\nx/v1.3,1\n", files=("x/v1.2.avi", "x/v1.3.avi"))
    assert [video.path.name for video in read_labelled(folder, list_file)] == [
        "v1.2.avi",
        "v1.3.avi",
    ]


def test_a_folder_of_frames_is_a_video(data: Data) -> None:
    folder, list_file = data("x,0\ny,1\n", files=("x/1.png", "y/1.png"))
    assert [video.path for video in read_labelled(folder, list_file)] == [
        folder / "videos" / "x",
        folder / "videos" / "y",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0\nb.mp4,2\n", r"line 2: a label is 0 .* got '2'"),
        ("a.mp4,0\nb.mp4,abnormal\n", r"line 2: .* got 'abnormal'"),
        ("a.mp4,0\nb.mp4,\n", r"line 2: .* got ''"),
        ("a.mp4 0\nb.mp4 1\n", r"line 1: expected FILE,LABEL"),
        ("a.mp4,0\nb.mp4,1,2\n", r"line 2: expected FILE,LABEL"),
        ("a.mp4,0\n,1\n", r"line 2: expected FILE,LABEL"),
        ("a.mp4,0\nb.mp4,1\na.mp4,1\n", r"line 3: a.mp4 is on line 1 already"),
        ("a.mp4,0\n/etc/passwd,1\n", r"line 2: .* leaves the folder"),
        ("a.mp4,0\n../b.mp4,1\n", r"line 2: .* leaves the folder"),
        ("a.mp4,1\nb.mp4,1\n", r"all 2 videos are abnormal"),
        ("a.mp4,0\n", r"all 1 videos are normal"),
        ("", r"names no videos"),
        ("# nothing\n\n", r"names no videos"),
        ("name,label\n", r"names no videos"),
    ],
)
def test_wrong_lists_are_refused_in_one_line(data: Data, text: str, message: str) -> None:
    folder, list_file = data(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_labelled(folder, list_file)
    assert str(list_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_video_by_two_names_is_one_video(data: Data) -> None:
    folder, list_file = data("a.mp4,0\na,1\nb.mp4,1\n")
    with pytest.raises(ValueError, match="line 2: a is on line 1 already"):
        read_labelled(folder, list_file)


def test_missing_videos_are_counted(data: Data) -> None:
    folder, list_file = data("a.mp4,0\nx.mp4,1\ny.mp4,1\n")
    with pytest.raises(FileNotFoundError, match=r"2 of its 3 videos are not in .*, such as x.mp4"):
        read_labelled(folder, list_file)
    with pytest.raises(FileNotFoundError, match="no such list"):
        read_labelled(folder, folder / "none.txt")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_labelled(folder / "none", list_file)


def labelled(labels: str) -> list[LabelledVideo]:
    return [LabelledVideo(Path(f"{k}.mp4"), int(label)) for k, label in enumerate(labels)]


def test_the_first_of_each_class_in_the_order_of_the_list() -> None:
    videos = labelled("1101001")
    chosen, rest = choose_labelled(videos, 2, "first")
    assert chosen == [videos[k] for k in (0, 1, 2, 4)]
    assert rest == [videos[k] for k in (3, 5, 6)]


def test_random_subsets_are_balanced_repeatable_and_nested() -> None:
    videos = labelled("01" * 30)
    chosen, rest = choose_labelled(videos, 10, 3)
    assert sorted(video.label for video in chosen) == [0] * 10 + [1] * 10
    assert set(chosen) | set(rest) == set(videos)
    assert not set(chosen) & set(rest)
    assert choose_labelled(videos, 10, 3) == (chosen, rest)
    assert choose_labelled(videos, 10, 4) != (chosen, rest)
    assert set(choose_labelled(videos, 5, 3)[0]) < set(chosen)


def test_every_video_is_chosen_by_some_seed() -> None:
    videos = labelled("01" * 10)
    counts = dict.fromkeys(videos, 0)
    for seed in range(200):
        for video in choose_labelled(videos, 3, seed)[0]:
            counts[video] += 1
    assert min(counts.values()) > 30  # 60 expected


def test_too_few_of_a_class_are_named() -> None:
    with pytest.raises(ValueError, match="only 2 are normal"):
        choose_labelled(labelled("110101"), 3, 0)
    with pytest.raises(ValueError, match="at least 1"):
        choose_labelled(labelled("01"), 0, 0)


def test_unlabelled_videos_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.mp4", "2.avi", "sub/3.mp4", "frames/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    np.savez(tmp_path / "1.npz", video=np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "0.npz", poses=np.zeros((2, 4)))  # no video
    found = [path.relative_to(tmp_path).as_posix() for path in unlabelled_videos(tmp_path)]
    assert found == ["1.npz", "2.avi", "10.mp4", "frames", "sub/3.mp4"]


def test_unlabelled_videos_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos"):
        unlabelled_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        unlabelled_videos(tmp_path / "none")


def test_shared_files_are_found_by_place_and_by_content(tmp_path: Path) -> None:
    paths = {}
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"three"), ("d", b"six")):
        paths[name] = tmp_path / f"{name}.mp4"
        paths[name].write_bytes(content)
    copy, link = tmp_path / "copy.mp4", tmp_path / "link.mp4"
    shutil.copy(paths["b"], copy)
    link.symlink_to(paths["c"])
    train = [paths["a"], paths["b"], paths["c"]]
    assert shared_files(train, [copy, link, paths["d"]]) == [(paths["b"], copy), (paths["c"], link)]
    assert shared_files(train, [paths["d"]]) == []  # of the same size as the first two
    require_apart(train, [paths["d"]], names=("training", "test"))
    message = re.escape(f"2 of the training videos are test videos as well, such as {paths['b']}")
    with pytest.raises(ValueError, match=message):
        require_apart(train, [copy, link], names=("training", "test"))


def test_a_folder_of_frames_is_shared_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert shared_files([tmp_path / "x"], [tmp_path / "x" / ".." / "x"])
    assert not shared_files([tmp_path / "x"], [tmp_path])


def test_open_video_knows_every_kind(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video("clip.mp4", 12)
    assert open_video(path).count() == 12
    np.savez(tmp_path / "clip.npz", video=np.zeros((5, 4, 4, 3), np.uint8))
    assert open_video(tmp_path / "clip.npz").count() == 5
    frames = tmp_path / "frames"
    frames.mkdir()
    with pytest.raises(ValueError, match="without images"):
        open_video(frames)
    for name in ("10.png", "9.png", ".hidden.png", "notes.txt"):
        (frames / name).write_bytes(b"")
    assert open_video(frames).count() == 2
    with pytest.raises(FileNotFoundError, match="no such video"):
        open_video(tmp_path / "none.mp4")
    (tmp_path / "clip.txt").write_text("")
    with pytest.raises(ValueError, match="not a video"):
        open_video(tmp_path / "clip.txt")


def test_the_table_that_the_simulator_writes(tmp_path: Path) -> None:
    from tools.simulate import write_labels

    record = {f"col_{k:05d}": {"style": "col", "label": k % 2, "seed": k} for k in range(3)}
    for name in record:
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    write_labels(tmp_path, record)
    videos = read_labelled(tmp_path, tmp_path / "labels.csv")
    assert [(video.path.name, video.label) for video in videos] == [
        ("col_00000.mp4", 0),
        ("col_00001.mp4", 1),
        ("col_00002.mp4", 0),
    ]
