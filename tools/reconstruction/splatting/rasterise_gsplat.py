"""The rasteriser of gsplat, on NVIDIA GPUs; the only file that imports that package.

gsplat (Apache-2.0) compiles its CUDA kernels when it is first used, which takes minutes, needs the
CUDA toolkit, and can fail in many ways. So the first use happens in a process of its own, with a
time limit; this one touches gsplat only after a small render succeeded there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera, camera_matrix
from tools.reconstruction.splatting.gaussians import Gaussians
from tools.reconstruction.splatting.projection import BLUR, NEAR

LIMIT = "ENDORA_GSPLAT_MINUTES"  # environment variable: how long the first compilation may take
MINUTES = 40.0
WORKED = "gsplat rendered"

log = logging.getLogger(__name__)


def rasterise_gsplat(
    gaussians: Gaussians, camera: Camera, degree: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `rasterise_torch`, by the CUDA kernels of gsplat."""
    from gsplat import rasterization

    kind = gaussians.positions
    picture, opacity, info = rasterization(
        means=gaussians.positions,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colours(camera.centre, degree),
        viewmats=camera.world_to_camera.to(kind)[None],
        Ks=camera.intrinsics.to(kind)[None],
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        eps2d=BLUR,
        packed=False,
        render_mode="RGB+ED",
    )
    means2d = _with_gradient(info["means2d"])
    radii = info["radii"].reshape(len(gaussians), -1).amax(1).to(kind)
    return picture[0, ..., :3], picture[0, ..., 3], opacity[0, ..., 0], means2d, radii


def _with_gradient(means: Tensor) -> Tensor:
    """A leaf (N, 2) of the values of (1, N, 2) that gets the gradient which passes there."""
    leaf = means.detach()[0].clone()
    if means.requires_grad:
        leaf.requires_grad_()

        def keep(gradient: Tensor) -> None:
            leaf.grad = gradient[0].detach().clone()

        means.register_hook(keep)
    return leaf


def why_not(device: torch.device) -> str:
    """Why gsplat cannot render on this device, in one line; empty when it can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if importlib.util.find_spec("gsplat") is None:
        return "the package is missing: pip install 'gsplat>=1.5.3,<2'"
    if importlib.util.find_spec("gsplat.csrc") is None and not prepare_compiler(os.environ, device):
        version = torch.version.cuda
        return f"no nvcc to compile its kernels: install the CUDA toolkit {version}, set CUDA_HOME"
    log.info("trying gsplat; its first use on a machine compiles CUDA kernels for minutes")
    minutes = float(os.environ.get(LIMIT, MINUTES))
    return _trial([sys.executable, "-m", __name__], minutes)


def _trial(command: list[str], minutes: float) -> str:
    """Run the trial render in its own process: empty if it worked, else the last line it said."""
    root = Path(__file__).resolve().parents[3]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {minutes:g} minutes; {LIMIT} allows more"
    if done.returncode == 0 and WORKED in done.stdout:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
    return f"its trial ended with code {done.returncode}: {lines[-1].strip()[:200]}"


def prepare_compiler(environment: MutableMapping[str, str], device: torch.device) -> bool:
    """Point the environment at a CUDA toolkit, one architecture and the cores; False without nvcc.

    An nvcc on the PATH may be a script that lies far from the toolkit's headers; a folder counts
    only if it holds both.
    """
    found = shutil.which("nvcc", path=environment.get("PATH", ""))
    places = [environment.get("CUDA_HOME"), environment.get("CUDA_PATH")]
    places += [str(Path(found).resolve().parents[1])] if found else []
    places += ["/usr/local/cuda", *(str(p) for p in sorted(Path("/usr/local").glob("cuda-*")))]
    for place in filter(None, places):
        home = Path(place)
        headers = list(home.glob("include/cuda_runtime.h")) + list(
            home.glob("targets/*/include/cuda_runtime.h")
        )
        if headers and (home / "bin" / "nvcc").is_file():
            environment["CUDA_HOME"] = place
            break
    else:
        return False
    if "TORCH_CUDA_ARCH_LIST" not in environment and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        environment["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    environment.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    return True


def trial() -> None:
    """Render two Gaussians and their gradient; raises whatever goes wrong."""
    from tools.reconstruction.splatting.rasterise_torch import rasterise_torch

    device = torch.device("cuda")
    places = torch.tensor([[0.0, 0.0, 2.0], [0.3, 0.1, 3.0]], device=device)
    scene = Gaussians(
        places.requires_grad_(),
        torch.full((2, 3), -1.5, device=device),
        torch.tensor([[1.0, 0.2, 0.0, 0.1]], device=device).repeat(2, 1),
        torch.ones(2, device=device),
        torch.ones(2, 1, 3, device=device),
    )
    camera = Camera(camera_matrix(24, 32, 60), torch.eye(4, dtype=torch.float64), 24, 32)
    theirs, ours = rasterise_gsplat(scene, camera)[0], rasterise_torch(scene, camera)[0]
    theirs.sum().backward()
    if not torch.allclose(theirs, ours, atol=1e-3):
        raise RuntimeError("gsplat renders something else than the torch rasteriser")


if __name__ == "__main__":
    trial()
    sys.stdout.write(f"{WORKED}\n")
