"""Clip gradients and take the optimizer step, unless a gradient is no finite number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

SMALLEST = 1e-6  # added to a norm before dividing by it, as torch.nn.utils does


def guarded_step(
    optimizer: Optimizer, parameters: Sequence[Tensor], norm: Tensor, limit: float
) -> None:
    """One optimizer step with gradients scaled so that their norm is at most `limit` (0: any).

    Where `norm` is not finite nothing changes, neither weights nor moments. A fused optimizer
    scales and decides on the device, in the pass over the gradients that it makes anyhow, so that
    the CPU need not wait for the norm; other optimizers are asked to wait.
    """
    finite = torch.isfinite(norm)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # The two attributes that torch.amp.GradScaler sets.
        fused: Any = optimizer
        fused.found_inf = (~finite).to(torch.float32)
        if limit:
            fused.grad_scale = ((norm + SMALLEST) / limit).clamp(min=1).to(torch.float32)
        try:
            optimizer.step()
        finally:
            del fused.found_inf
            if limit:
                del fused.grad_scale
    elif bool(finite):
        if limit:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        optimizer.step()
