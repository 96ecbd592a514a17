"""What the command refuses, in one line and before anything is written."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from models.registry import build_method
from tools.import_checkpoint import main


class Evil:
    """Would create a file when an unsafe reader opens it."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (f"open({str(self.trap)!r}, 'w').close()",))


def refused(monkeypatch: pytest.MonkeyPatch, file: Path, *arguments: str) -> str:
    output = file.with_name("imported.safetensors")
    command = ["import_checkpoint", str(file), "--output", str(output), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller looks at the message
        main()
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert not output.exists()
    return message


def test_a_program_within_a_checkpoint_is_named_and_not_run(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    method = build_method(originals.gan_config("stylegan_v"))
    for place in ("vis", "G_opt", "training_set_kwargs", "D"):
        file = originals.write_gan(method, tmp_path, **{place: Evil(trap)})
        assert "names 'builtins.exec'" in refused(monkeypatch, file)
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "callbacks": {"best": Evil(trap)}}, file)
    assert "names 'builtins.exec'" in refused(monkeypatch, file)
    assert not trap.exists()


def test_a_harmless_name_can_be_allowed_to_stand_for_nothing(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    method = build_method(originals.gan_config("stylegan_v"))
    file = originals.write_gan(method, tmp_path, vis=Evil(trap))
    output = tmp_path / "imported.safetensors"
    command = ["import_checkpoint", str(file), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--inert", "builtins.exec"])
    main()
    assert output.exists()
    assert not trap.exists()


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_a_truncated_file(
    originals: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    gan = originals.write_gan(build_method(originals.gan_config("stylegan_v")), tmp_path)
    cut(gan)
    assert "safe mode" in refused(monkeypatch, gan)
    ckpt = originals.write_lightning({"encoder.weight": torch.ones(50)}, tmp_path / "last.ckpt")
    cut(ckpt)
    assert "safe mode" in refused(monkeypatch, ckpt)


def test_a_file_of_no_known_kind_or_of_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"weights": [1, 2]}))
    assert "of no known kind" in refused(monkeypatch, file)
    assert "no network 'G_ema'" in refused(monkeypatch, file, "--kind", "gan")
    assert "no state_dict" in refused(monkeypatch, file, "--kind", "lvdm")
    assert "no x_embedder" in refused(monkeypatch, file, "--kind", "endora")
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}}, file)
    assert "neither stage of LVDM" in refused(monkeypatch, file)
