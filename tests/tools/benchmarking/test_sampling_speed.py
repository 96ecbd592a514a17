"""Reuse with random weights leaves out as many steps as it does with trained ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.interface import VideoNoise
from models.methods.endora import EndoraSampling
from tools.benchmarking.networks import LatentsOnly, Model, new_denoiser
from tools.benchmarking.sampling_speed import threshold, trained_runs, video_section
from tools.benchmarking.tables import Row, Section

MODEL = Model(frames=4, images=0, pixels=32, depth=2)


def test_the_threshold_gives_the_wanted_number_of_runs() -> None:
    method = LatentsOnly(MODEL)
    network = new_denoiser(MODEL, torch.device("cpu")).eval()
    sampling = EndoraSampling(sampler="dpm_solver", steps=20, reuse=0.1)
    wanted = trained_runs(method, sampling)
    assert 5 < wanted < 20
    allowed = threshold(method, network, sampling, wanted)
    runs: list[int] = []
    handle = network.transformer.spatial[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        latents = method.sample(
            {"denoiser": network}, VideoNoise([0], "cpu"), replace(sampling, reuse=allowed)
        )
    handle.remove()
    assert latents.shape == (1, 4, 4, 4, 4)  # not decoded
    assert wanted - 2 <= len(runs) <= wanted


def test_a_whole_video_is_latents_and_the_faster_decoding() -> None:
    latents = Section("sample", "", "s", [Row("reference", [10.0]), Row("ours", [1.0])])
    decoding = Section(
        "decode", "", "s", [Row("decoding, fp32", [4.0]), Row("decoding, bf16", [1.0])]
    )
    rows = video_section(latents, decoding).rows
    assert [row.values for row in rows] == [[14.0], [2.0]]
    assert rows[1].ratios == [pytest.approx(7.0)]
