"""CoMatch: its parts reduce to known ones at the ends of their ranges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tools.diagnosis.comatch import MemoryBank, Projection, contrast, label_graph, smoothed


def unit(rows: int, width: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width), dim=1)


def full_bank(rows: int = 4) -> MemoryBank:
    bank = MemoryBank(rows, 6, 2, torch.device("cpu"))
    bank.add(unit(rows), torch.rand(rows, 2).softmax(1))
    return bank


def test_without_likeness_the_contrast_tells_each_clip_from_all_others() -> None:
    first, second = unit(5), unit(5)
    graph = label_graph(torch.rand(5, 2).softmax(1), threshold=1.1)
    assert torch.equal(graph, torch.eye(5))
    by_class = F.cross_entropy(first @ second.T / 0.2, torch.arange(5))
    assert contrast(first, second, graph, 0.2).item() == pytest.approx(by_class.item(), rel=1e-5)


def test_the_graph_joins_clips_of_like_predictions() -> None:
    sure = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    graph = label_graph(sure, threshold=0.8)
    assert torch.allclose(graph.sum(1), torch.ones(3))
    # 1 * 0.9 = 0.9 joins the first two; each is joined to itself by 1, though 0.9^2 + 0.1^2 < 1.
    by_hand = torch.tensor([[1 / 1.9, 0.9 / 1.9, 0], [0.9 / 1.9, 1 / 1.9, 0], [0, 0, 1]])
    assert torch.allclose(graph, by_hand)


def test_rows_of_a_graph_sum_to_1() -> None:
    graph = label_graph(torch.rand(20, 2).mul(8).softmax(1), threshold=0.6)
    assert torch.allclose(graph.sum(1), torch.ones(20))


def test_the_whole_own_share_leaves_the_memory_out() -> None:
    rows = torch.rand(3, 2).softmax(1)
    bank = full_bank()
    assert torch.equal(smoothed(rows, unit(3), bank, own_share=1.0, temperature=0.2), rows)
    assert not torch.equal(smoothed(rows, unit(3), bank, own_share=0.9, temperature=0.2), rows)


def test_smoothing_waits_until_the_memory_is_full() -> None:
    bank = MemoryBank(4, 6, 2, torch.device("cpu"))
    bank.add(unit(3), torch.rand(3, 2).softmax(1))
    rows = torch.rand(3, 2).softmax(1)
    assert torch.equal(smoothed(rows, unit(3), bank, own_share=0.5, temperature=0.2), rows)


def test_smoothing_by_hand() -> None:
    bank = MemoryBank(2, 2, 2, torch.device("cpu"))
    bank.add(torch.eye(2), torch.eye(2))
    rows, embedding = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    near = torch.tensor([1.0, 0.0]).div(0.2).softmax(0)
    found = smoothed(rows, embedding, bank, own_share=0.9, temperature=0.2)
    assert torch.allclose(found, 0.9 * rows + 0.1 * near)
    assert found.sum().item() == pytest.approx(1)


def test_the_memory_overwrites_its_oldest_rows() -> None:
    bank = MemoryBank(5, 1, 2, torch.device("cpu"))
    numbers = torch.arange(8.0)[:, None]
    for part in numbers.split(2):
        bank.add(part, part.expand(-1, 2))
    assert bank.is_full
    assert sorted(bank.embeddings.flatten().tolist()) == [3, 4, 5, 6, 7]
    assert torch.equal(bank.embeddings.expand(-1, 2), bank.probabilities)


def test_a_memory_goes_on_from_its_state() -> None:
    bank = MemoryBank(4, 6, 2, torch.device("cpu"))
    bank.add(unit(3), torch.rand(3, 2))
    other = MemoryBank(4, 6, 2, torch.device("cpu"))
    other.load(bank.state())
    rows, beliefs = unit(2), torch.rand(2, 2)
    bank.add(rows, beliefs)
    other.add(rows, beliefs)
    assert torch.equal(bank.embeddings, other.embeddings)
    assert (bank.position, bank.filled) == (other.position, other.filled) == (1, 4)


def test_projections_have_length_1() -> None:
    lengths = Projection(8, 4)(torch.randn(5, 8)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(5))
