"""The rasteriser against closed forms, symmetries, and a slow obvious version."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera, camera_matrix
from tools.reconstruction.splatting import compositing
from tools.reconstruction.splatting.gaussians import Gaussians, colour_to_harmonic
from tools.reconstruction.splatting.projection import project
from tools.reconstruction.splatting.rasterise import choose_backend, rasterise

RED, GREEN = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.7, 0.3])


def camera(height: int, width: int | None = None, view: float = 70.0) -> Camera:
    width = width or height
    return Camera(
        camera_matrix(height, width, view), torch.eye(4, dtype=torch.float64), height, width
    )


def balls(places: list[list[float]], scale: float, opacity: list[float], colour: Tensor):
    count = len(places)
    return Gaussians(
        positions=torch.tensor(places, dtype=torch.float64),
        log_scales=torch.full((count, 3), math.log(scale), dtype=torch.float64),
        rotations=torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(count, 1),
        opacity_logits=torch.tensor(opacity, dtype=torch.float64).logit(),
        harmonics=colour_to_harmonic(colour.double()).expand(count, 3)[:, None],
    )


def cloud(count: int, degree: int = 1, seed: int = 0, kind: torch.dtype = torch.float64):
    """Gaussians of many sizes and shapes, some outside the picture and some behind the camera."""
    torch.manual_seed(seed)
    depth = torch.rand(count, dtype=kind) * 4 - 0.5
    aside = torch.randn(count, 2, dtype=kind) * depth.abs()[:, None]
    return Gaussians(
        positions=torch.cat([aside, depth[:, None]], 1),
        log_scales=torch.randn(count, 3, dtype=kind) - 2.5,
        rotations=torch.randn(count, 4, dtype=kind),
        opacity_logits=torch.randn(count, dtype=kind) * 2,
        harmonics=torch.randn(count, (degree + 1) ** 2, 3, dtype=kind) * 0.3,
    )


def slow(gaussians: Gaussians, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Every Gaussian against every pixel, one after the other."""
    flat = project(gaussians, camera)
    colours = gaussians.colours(camera.centre)
    colour = torch.zeros(camera.height, camera.width, 3, dtype=torch.float64)
    depth, opacity = colour[..., 0].clone(), colour[..., 0].clone()
    passing = torch.ones_like(depth)
    y, x = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    for k in torch.argsort(flat.depths):
        if not flat.in_front[k]:
            continue
        off = torch.stack([x, y], -1) - flat.means2d[k]
        a, b, c = flat.conics[k]
        distance = a * off[..., 0] ** 2 + 2 * b * off[..., 0] * off[..., 1] + c * off[..., 1] ** 2
        alpha = gaussians.opacities[k] * torch.exp(-distance / 2)
        alpha = torch.where(alpha >= 1 / 255, alpha.clamp(max=0.999), 0.0)
        colour = colour + (alpha * passing)[..., None] * colours[k]
        depth = depth + alpha * passing * flat.depths[k]
        opacity = opacity + alpha * passing
        passing = passing * (1 - alpha)
    return colour, depth / opacity.clamp(min=1e-10), opacity


def test_a_ball_on_the_axis_has_the_size_opacity_and_colour_of_the_closed_form() -> None:
    view, depth, scale = camera(33), 2.5, 0.12
    ball = balls([[0, 0, depth]], scale, [0.8], RED)
    focal = float(view.intrinsics[0, 0])
    variance = (focal * scale / depth) ** 2 + 0.3
    torch.testing.assert_close(
        project(ball, view).conics[0], torch.tensor([1 / variance, 0, 1 / variance]).double()
    )
    render = rasterise(ball, view)
    assert float(render.opacity[16, 16]) == pytest.approx(0.8)
    torch.testing.assert_close(render.colour[16, 16], 0.8 * RED.double())
    assert float(render.depth[16, 16]) == pytest.approx(depth)
    falling = 0.8 * math.exp(-(4**2) / (2 * variance))
    assert float(render.opacity[16, 20]) == pytest.approx(falling)


@pytest.mark.parametrize("flipped", [False, True])
def test_the_nearer_of_two_balls_hides_the_other_whatever_their_order(flipped: bool) -> None:
    places, opacities = [[0, 0, 2.0], [0, 0, 3.0]], [0.6, 0.7]
    colours = torch.stack([RED, GREEN])
    if flipped:
        places, opacities, colours = places[::-1], opacities[::-1], colours.flip(0)
    render = rasterise(balls(places, 0.2, opacities, colours), camera(17))
    expected = 0.6 * RED.double() + 0.4 * 0.7 * GREEN.double()
    torch.testing.assert_close(render.colour[8, 8], expected)
    depth = (0.6 * 2 + 0.4 * 0.7 * 3) / (0.6 + 0.4 * 0.7)
    assert float(render.depth[8, 8]) == pytest.approx(depth)


@pytest.mark.parametrize("size", [(24, 24), (37, 21)])
def test_it_equals_the_slow_obvious_version(size: tuple[int, int]) -> None:
    scene, view = cloud(300), camera(*size)
    render = rasterise(scene, view)
    colour, depth, opacity = slow(scene, view)
    # Light below 1e-4 may be dropped behind opaque Gaussians.
    torch.testing.assert_close(render.colour, colour, atol=3e-4, rtol=0)
    torch.testing.assert_close(render.opacity, opacity, atol=1e-4, rtol=0)
    torch.testing.assert_close(render.depth, depth, atol=1e-3, rtol=0)


def test_single_precision_is_close_to_double() -> None:
    scene, view = cloud(300), camera(32)
    exact, single = rasterise(scene, view), rasterise(scene.to(torch.float32), view)
    assert single.colour.dtype == torch.float32
    # One Gaussian more or less at the threshold of 1/255 may differ in a pixel.
    off = (single.colour - exact.colour).abs()
    assert float(off.max()) < 5e-3
    assert float(off.mean()) < 1e-5


def test_opacity_zero_and_behind_the_camera_change_nothing_and_have_finite_gradients() -> None:
    alone = balls([[0, 0, 2.0]], 0.2, [0.6], RED)
    places = [[0, 0, 2.0], [0, 0, 1.0], [0, 0, -1.0], [0, 0, 0.0], [100.0, 0, 1.0]]
    crowd = balls(places, 0.2, [0.6, 0.5, 0.6, 0.6, 0.6], RED)
    crowd.opacity_logits[1] = -1e3
    crowd = crowd.map(lambda values: values.requires_grad_())
    render = rasterise(crowd, camera(17))
    torch.testing.assert_close(render.colour, rasterise(alone, camera(17)).colour)
    assert render.radii[0] > 0
    assert (render.radii[1:] == 0).all()
    (render.colour.sum() + render.depth.sum() + render.opacity.sum()).backward()
    for name, values in vars(crowd).items():
        assert torch.isfinite(values.grad).all(), name
    assert (crowd.positions.grad[0] != 0).any()


def test_an_empty_picture_is_the_background() -> None:
    scene = balls([[0, 0, -2.0]], 0.2, [0.6], RED).map(lambda values: values.requires_grad_())
    render = rasterise(scene, camera(9, 13), background=GREEN)
    torch.testing.assert_close(render.colour, GREEN.expand(9, 13, 3).double())
    assert (render.depth == 0).all()
    render.colour.sum().backward()


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(3)
    scene = balls([[-0.3, 0.1, 2.0], [0.2, 0.2, 2.6], [0.0, -0.3, 3.1]], 0.5, [0.6, 0.5, 0.7], RED)
    scene = scene.map(lambda values: values + 0.1 * torch.randn_like(values))
    harmonics = torch.randn(3, 4, 3, dtype=torch.float64) * 0.1
    parts = [scene.positions, scene.log_scales, scene.rotations, scene.opacity_logits, harmonics]
    eye = torch.eye(4, dtype=torch.float64)
    eye[:3, 3] = torch.tensor([0.05, -0.02, 0.1])
    view = Camera(camera_matrix(8, 8, 60), eye, 8, 8)

    def picture(*parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        render = rasterise(Gaussians(*parts), view)
        return render.colour, render.depth, render.opacity

    assert torch.autograd.gradcheck(picture, [part.clone().requires_grad_() for part in parts])


def test_gradients_do_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> list[Tensor]:
        scene = cloud(400, seed=5).map(lambda values: values.requires_grad_())
        render = rasterise(scene, camera(30))
        weights = torch.linspace(-1, 1, 30 * 30 * 3, dtype=torch.float64).reshape(30, 30, 3)
        ((render.colour * weights).sum() + render.depth.mean() + render.opacity.mean()).backward()
        return [values.grad for values in vars(scene).values()]

    monkeypatch.setattr(compositing, "HIDDEN", 0.0)
    whole = gradients()
    monkeypatch.setattr(compositing, "BLOCK", 5)
    monkeypatch.setattr(compositing, "ELEMENTS", 5 * 256 * 3)
    for cut, expected in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(cut, expected)


def test_moving_camera_and_scene_together_changes_nothing() -> None:
    scene, view = cloud(60, degree=0), camera(20)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turn = turn * torch.det(turn).sign()
    shift = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = turn.T, -turn.T @ shift
    # The rotation as a quaternion, by the axis that it keeps and its trace.
    w = (1 + turn.trace()).clamp(min=1e-12).sqrt() / 2
    axis = torch.stack(
        [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
    ) / (4 * w)
    v, u = scene.rotations[:, 1:], scene.rotations[:, :1]
    turned = torch.cat(
        [
            w * u - (v @ axis)[:, None],
            w * v + u * axis + torch.cross(axis.expand_as(v), v, dim=1),
        ],
        1,
    )
    moved = Gaussians(
        scene.positions @ turn.T + shift,
        scene.log_scales,
        turned,
        scene.opacity_logits,
        scene.harmonics,
    )
    there = rasterise(moved, Camera(view.intrinsics, pose, 20, 20))
    here = rasterise(scene, view)
    torch.testing.assert_close(there.colour, here.colour, atol=1e-6, rtol=0)
    torch.testing.assert_close(there.depth, here.depth, atol=1e-6, rtol=0)


def test_means2d_receive_the_gradient_that_steers_growth() -> None:
    scene = balls([[0.1, 0, 2.0]], 0.2, [0.6], RED).map(lambda values: values.requires_grad_())
    render = rasterise(scene, camera(17))
    render.colour[:, 9:].sum().backward()
    assert render.means2d.grad is not None
    assert render.means2d.grad[0, 0] > 0  # further right, more of it on the right half


def test_projection_equals_the_torch_reference_of_gsplat() -> None:
    reference = pytest.importorskip("gsplat.cuda._torch_impl")
    scene, view = cloud(200, kind=torch.float64), camera(40, 56)
    covariances, _ = reference._quat_scale_to_covar_preci(scene.rotations, scene.scales)
    radii, means, depths, conics, _ = reference._fully_fused_projection(
        scene.positions, covariances, view.world_to_camera[None], view.intrinsics[None], 56, 40
    )
    ours = project(scene, view)
    front = ours.in_front
    assert 100 < int(front.sum()) < 200
    torch.testing.assert_close(ours.means2d[front], means[0][front], atol=1e-4, rtol=1e-9)
    torch.testing.assert_close(ours.depths, depths[0])
    torch.testing.assert_close(ours.conics[front], conics[0][front], atol=1e-7, rtol=1e-6)
    # Whatever it sees that is opaque enough, ours sees too.
    render = rasterise(scene, view)
    theirs = (radii[0] > 0).all(1) & (scene.opacities > 0.99)
    assert (render.radii[theirs] > 0).all()


def test_harmonics_equal_those_of_gsplat() -> None:
    reference = pytest.importorskip("gsplat.cuda._torch_impl")
    scene = cloud(50, degree=3)
    eye = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
    theirs = reference._spherical_harmonics(3, scene.positions - eye, scene.harmonics)
    torch.testing.assert_close(scene.colours(eye), (theirs + 0.5).clamp(min=0), atol=1e-6, rtol=0)


def test_the_cpu_gets_the_torch_back_end_and_says_why() -> None:
    name, reason = choose_backend(torch.device("cpu"))
    assert name == "torch"
    assert "CPU" in reason
    with pytest.raises(ValueError, match="gsplat cannot run"):
        rasterise(cloud(3), camera(8), backend="gsplat")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gsplat_and_torch_agree_on_a_gpu() -> None:
    device = torch.device("cuda")
    name, reason = choose_backend(device)
    if name != "gsplat":
        pytest.skip(f"gsplat cannot run here: {reason}")
    pictures, gradients = [], []
    for backend in ("torch", "gsplat"):
        scene = cloud(400, kind=torch.float32).to(device)
        scene = scene.map(lambda values: values.detach().requires_grad_())
        render = rasterise(scene, camera(64, 48), backend=backend)  # type: ignore[arg-type]
        (render.colour.square().mean() + render.opacity.mean() + render.depth.mean()).backward()
        pictures.append((render.colour, render.depth, render.opacity))
        gradients.append([*(values.grad for values in vars(scene).values()), render.means2d.grad])
    for ours, theirs in zip(*pictures, strict=True):
        off = (ours - theirs).abs()
        assert float(off.quantile(0.999)) < 1e-3
    for ours, theirs in zip(*gradients, strict=True):
        assert float((ours - theirs).norm() / ours.norm()) < 1e-2
