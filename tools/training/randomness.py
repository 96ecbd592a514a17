"""Random numbers as a function of (seed, rank, step), so that a stopped run can go on exactly."""

from __future__ import annotations

import hashlib
import random

import numpy
import torch


def reseed(seed: int, rank: int, step: int) -> None:
    """Set the generators of torch (all devices), numpy and Python for one training step.

    Whatever was drawn before, what follows depends on the three numbers alone. Neighbouring
    seeds, ranks and steps give unrelated numbers, because the three are hashed together.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    torch.manual_seed(number % 2**63)
    numpy.random.seed(number % 2**32)
    random.seed(number)
