"""What the styles of the simulator look like, and how a seed chooses one organ and one scope."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from datasets import simulator_abdomen as abdomen
from datasets.simulator_abdomen import AbdomenScene, Anatomy, paint_abdomen, random_instrument
from datasets.simulator_camera import Lens, Path
from datasets.simulator_render import Light, Rod, Table, Wall, march
from datasets.simulator_textures import Grid, blur
from datasets.simulator_tube import (
    CELLS,
    END,
    START,
    Breath,
    Lesion,
    TubeScene,
    TubeStyle,
    Wave,
    fold_heights,
    least_nearby,
    lesion_profile,
    paint,
)

COLON = TubeStyle(
    radius=(19.0, 26.0),
    bend=(10.0, 26.0),
    bend_length=(170.0, 300.0),
    spacing=(13.0, 30.0),
    depth=(0.16, 0.46),
    width=(1.6, 3.6),
    triangle=(0.02, 0.13),
    waviness=3.0,
    tissues=(
        (0.78, 0.36, 0.25),
        (0.76, 0.26, 0.18),
        (0.80, 0.44, 0.30),
        (0.70, 0.35, 0.19),
    ),
    vessels=(0.35, 1.0),
    villi=(0.04, 0.13),
    rough=0.0,
    lesion_size=(4.0, 7.5),
    speed=(8.0, 26.0),
    steer=0.17,
)

SMALL_BOWEL = TubeStyle(
    radius=(10.0, 14.0),
    bend=(10.0, 18.0),
    bend_length=(110.0, 200.0),
    spacing=(5.0, 13.0),
    depth=(0.12, 0.48),
    width=(0.9, 2.0),
    triangle=(0.0, 0.16),
    waviness=2.8,
    tissues=(
        (0.80, 0.36, 0.16),
        (0.82, 0.33, 0.22),
        (0.72, 0.34, 0.10),
        (0.84, 0.43, 0.26),
    ),
    vessels=(0.0, 0.5),
    villi=(0.07, 0.16),
    rough=0.12,
    lesion_size=(2.2, 4.0),
    speed=(3.0, 10.0),
    steer=0.38,
)


class Scene(Protocol):
    """What a scope looks at."""

    def axis(self, z: float) -> NDArray[np.float64]:
        """The middle (x, y) of the way at z, millimetres."""

    def wall(self, time: float, deformation: float) -> Wall:
        """The tissue at a moment, seconds."""

    def rods(self, time: float, deformation: float) -> list[Rod]:
        """The instruments at a moment."""


@dataclass(frozen=True)
class Setting:
    """One organ, one scope and the way it takes."""

    scene: Scene
    texture: Table
    light: Light
    lens: Lens
    path: Path
    lesion: bool


def build_colon(seed: int, lesion: bool | None) -> Setting:
    """The colonoscopy that belongs to a seed."""
    rng = np.random.default_rng([seed, 0])
    bears = bool(rng.uniform() < 0.5) if lesion is None else lesion
    light = Light(
        reach=24.0,
        softness=rng.uniform(6, 10),
        spread=rng.uniform(0.8, 2.2),
        wrap=0.12,
        gloss=rng.uniform(0.6, 1.8),
        sharpness=rng.uniform(90, 280),
        offset=rng.uniform(2.5, 4.5),
        exposure=rng.uniform(0.26, 0.40),
        ambient=(0.05, 0.016, 0.008),
        haze=(110.0, 70.0, 60.0),
        murk=(0.0, 0.0, 0.0),
    )
    lens = colon_lens(rng)
    return tube_setting(seed, rng, COLON, light, lens, bears)


def colon_lens(rng: np.random.Generator) -> Lens:
    """A lens and mask as colonoscopes have them."""
    form = rng.choice(["octagon", "octagon", "rounded", "round"])
    view = np.radians(rng.uniform(98, 116))
    centre = (rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03))
    vignette = rng.uniform(0.25, 0.6)
    if form == "octagon":
        reach = (rng.uniform(0.93, 1.02), rng.uniform(0.86, 0.98))
        return Lens(view, "octagon", reach, centre, rng.uniform(0.2, 0.42), vignette)
    if form == "round":
        radius = rng.uniform(0.95, 1.06)
        return Lens(view, "round", (radius, radius), centre, 0.0, vignette)
    reach = (rng.uniform(0.92, 1.0), rng.uniform(0.86, 0.98))
    return Lens(view, "rounded", reach, centre, rng.uniform(4.0, 7.0), vignette)


def build_capsule(seed: int, lesion: bool | None) -> Setting:
    """The capsule endoscopy of the small bowel that belongs to a seed."""
    rng = np.random.default_rng([seed, 10])
    bears = bool(rng.uniform() < 0.5) if lesion is None else lesion
    bile = rng.uniform(0, 1) ** 2
    light = Light(
        reach=14.0,
        softness=rng.uniform(5, 8),
        spread=rng.uniform(0.6, 1.4),
        wrap=0.3,
        gloss=rng.uniform(0.05, 0.35),
        sharpness=rng.uniform(60, 160),
        offset=rng.uniform(2.0, 4.0),
        exposure=rng.uniform(0.28, 0.40),
        ambient=(0.08, 0.035, 0.010),
        haze=(90.0 - 40 * bile, 55.0 - 15 * bile, 30.0 - 10 * bile),
        murk=(0.05 * bile, 0.043 * bile, 0.007 * bile),
    )
    view, centre = np.radians(rng.uniform(104, 120)), (0.0, 0.0)
    reach, vignette = rng.uniform(0.97, 1.02), rng.uniform(0.35, 0.65)
    if rng.uniform() < 0.5:
        lens = Lens(view, "octagon", (reach, reach), centre, rng.uniform(0.38, 0.58), vignette)
    else:
        lens = Lens(view, "round", (reach, reach), centre, 0.0, vignette)
    return tube_setting(seed, rng, SMALL_BOWEL, light, lens, bears)


def build_abdomen(seed: int, lesion: bool | None) -> Setting:
    """The laparoscopy that belongs to a seed; a lesion is a nodule on the liver."""
    rng = np.random.default_rng([seed, 20])
    bears = bool(rng.uniform() < 0.5) if lesion is None else lesion
    anatomy = Anatomy.random(rng, bears)
    height, shares, _ = anatomy.layers(abdomen.CELLS)
    first = rng.uniform(-2.6, 0.4)
    tools = [random_instrument(rng, anatomy, first)]
    if rng.uniform() < 0.4:
        tools.append(random_instrument(rng, anatomy, first + np.pi + rng.uniform(-0.8, 0.3)))
    yaw, pitch = rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.35)
    scene = AbdomenScene(
        rest=height,
        low=abdomen.least_nearby(height),
        level=blur(height, (14.0, 14.0)),
        loose=0.4 + 0.6 * blur(shares[0], (8.0, 8.0)),
        instruments=tuple(tools),
        centre=(-75 * np.tan(yaw), 75 * np.tan(pitch)),
        phase=rng.uniform(0, 6.28),
    )
    light = Light(
        reach=70.0,
        softness=22.0,
        spread=rng.uniform(3.0, 6.0),
        wrap=0.15,
        gloss=rng.uniform(0.5, 1.2),
        sharpness=rng.uniform(90, 220),
        offset=4.0,
        exposure=rng.uniform(0.22, 0.32),
        ambient=(0.02, 0.01, 0.008),
        haze=(400.0, 320.0, 320.0),
        murk=(0.0, 0.0, 0.0),
    )
    reach, power = (rng.uniform(0.85, 0.97), rng.uniform(1.05, 1.3)), rng.uniform(2.0, 2.6)
    if rng.uniform() < 0.35:
        reach, power = (1.6, 1.6), 8.0  # the whole frame
    way = Wave.random(rng, (0.0, 0.0), (5.0, 11.0))
    way.amplitude[0] = rng.uniform(2, 9), rng.uniform(1, 4)
    return Setting(
        scene=scene,
        texture=paint_abdomen(np.random.default_rng([seed, 22]), anatomy),
        light=light,
        lens=Lens(np.radians(rng.uniform(46, 62)), "rounded", reach, (0.0, 0.0), power, 0.55),
        path=Path(
            start=0.0,
            way=way,
            aside=Wave.random(rng, (2.0, 8.0), (4.0, 10.0)),
            limit=14.0,
            glance=Wave.random(rng, (0.01, 0.04), (3.0, 8.0)),
            bias=(yaw, pitch),
            roll=rng.uniform(-0.35, 0.35),
            rolling=Wave.random(rng, (0.01, 0.06), (6.0, 12.0)),
            ahead=75.0,
        ),
        lesion=bears,
    )


def tube_setting(
    seed: int,
    rng: np.random.Generator,
    style: TubeStyle,
    light: Light,
    lens: Lens,
    bears: bool,
) -> Setting:
    """A hollow organ of a style with a scope in it."""
    radius = rng.uniform(*style.radius)
    centre = Wave.random(rng, style.bend, style.bend_length)
    folds = fold_heights(rng, style, radius)
    speed, pace = rng.uniform(*style.speed), rng.uniform(0.28, 0.75)
    way = Wave.random(rng, (0.0, 0.0), (1.0, 2.0))
    way.amplitude[0] = np.minimum(speed / pace, 38.0) * np.array([1.0, 0.12])
    way.rate[0] = pace * np.array([1.0, 2.7])
    steer = rng.normal(0, style.steer, 2)
    breath = Breath(
        phase=rng.uniform(0, 6.28),
        speed=rng.uniform(8, 20),
        length=rng.uniform(60, 110),
        squeeze=0.10,
        sway=0.05,
    )
    path = Path(
        start=0.0,
        way=way,
        aside=Wave.random(rng, (1.0, 6.0), (5.0, 11.0)),
        limit=max(1.0, 0.8 * narrowest(folds, -46.0, 46.0) - 4.0),
        glance=Wave.random(rng, (0.03, 0.13), (3.0, 8.0)),
        bias=(float(steer[0]), float(steer[1])),
        roll=rng.uniform(0, 6.28),
        rolling=Wave.random(rng, (0.05, 0.25), (6.0, 12.0)),
        ahead=1.5 * radius,
    )
    scene, polyp = TubeScene(centre, folds, least_nearby(folds), breath), None
    if bears:
        polyp, path = place_lesion(np.random.default_rng([seed, 1]), scene, path, style, radius)
        height, _ = lesion_profile(polyp, radius, CELLS)
        rest = (folds * (1 - 0.55 * np.tanh(height / (0.55 * folds + 1e-3)))).astype(np.float32)
        scene = replace(scene, rest=rest, low=least_nearby(rest))
    texture = paint(np.random.default_rng([seed, 2]), style, radius, folds, polyp)
    return Setting(scene, texture, light, lens, path, bears)


def narrowest(folds: Grid, first: float, last: float) -> float:
    """Smallest radius of a tube between two places on its axis, millimetres."""
    z = np.linspace(START, END, CELLS[0])
    return float(folds[(z >= first) & (z <= last)].min())


LOOKS = (0.0, 0.6, 1.2, 1.8, 2.4)  # moments of the path, seconds, that should see the lesion


def place_lesion(
    rng: np.random.Generator, scene: TubeScene, path: Path, style: TubeStyle, radius: float
) -> tuple[Lesion, Path]:
    """The best seen of some random places for a lesion, and the path with the look drawn to it."""
    size = rng.uniform(*style.lesion_size)
    where = np.mean([path.along(t) for t in LOOKS])
    u = where + rng.uniform(0.5, 1.7, 40) * radius
    v = rng.uniform(0, 2 * np.pi, 40)
    wall = scene.wall(0.0, 0.0)
    height = wall.height.look_up(torch.tensor(u).float(), torch.tensor(v).float())[0].numpy()
    out = np.maximum(height - 0.9 * size, 1.0)
    axis = np.stack([scene.axis(z) for z in u])
    tops = np.stack([axis[:, 0] + out * np.cos(v), axis[:, 1] + out * np.sin(v), u])
    seen = np.zeros(len(u))
    for time in LOOKS:
        pose = path.pose(time, scene.axis).numpy()
        rays = tops - pose[:3, 3:]
        reached = march(
            wall, torch.tensor(pose[:3, 3]).float(), torch.tensor(rays).float(), far=1.0, first=0.01
        ).numpy()
        distance = np.linalg.norm(rays, axis=0)
        ahead = np.clip((rays * pose[:3, 2:3]).sum(0) / distance, 0, None)
        seen += (reached > 0.97) * ahead * (height / radius) ** 2 / np.maximum(distance, radius)
    best = int(np.argmax(seen))
    lesion = Lesion(
        float(u[best]),
        float(v[best]),
        size,
        rng.uniform(0.75, 1.25),
        rng.uniform(1.0, 1.4),
        rng.uniform(0, np.pi),
        int(rng.integers(2**31)),
    )
    interest = (float(tops[0, best]), float(tops[1, best]), float(tops[2, best]))
    return lesion, replace(path, interest=interest, pull=rng.uniform(0.45, 0.75))


def build_setting(seed: int, style: str, lesion: bool | None) -> Setting:
    """Organ, scope and way that belong to a seed, in one of the styles."""
    return {"col": build_colon, "kva": build_capsule, "cho": build_abdomen}[style](seed, lesion)
