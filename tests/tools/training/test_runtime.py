from __future__ import annotations

import pytest
import torch

from tools.training.runtime import Runtime, start_runtime


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start_runtime() as runtime:
        assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
        assert not runtime.is_distributed
        runtime.barrier()
        runtime.check_equal(3, "never")
        assert runtime.mean({"a": torch.tensor(2.0)}) == {"a": 2.0}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_decides_what_products_are_computed_in(
    precision: str, dtype: torch.dtype
) -> None:
    with start_runtime(precision) as runtime, runtime.autocast():  # type: ignore[arg-type]
        a = torch.ones(2, 2, device=runtime.device)
        assert (a @ a).dtype == dtype


def test_auto_is_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with start_runtime("auto") as runtime:
        assert runtime.device == torch.device("cpu")
        assert not runtime.bf16


def test_more_processes_than_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="at most one process per GPU"):
        start_runtime().__enter__()


def test_only_rank_zero_writes() -> None:
    assert not Runtime(torch.device("cpu"), rank=1, world_size=2).is_main
