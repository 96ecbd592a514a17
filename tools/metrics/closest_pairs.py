"""Copies of training clips in folders of videos: search, second look, and a picture to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datasets.sources import Source
from datasets.transforms import resize_centre_crop
from tools.metrics.extraction import Extraction, Side, extract
from tools.metrics.features import FeatureExtractor
from tools.metrics.levelled import LevelledExtractor
from tools.metrics.memorisation import Memorisation, Pair, find_nearest
from tools.metrics.pixel_match import Match, best_match, shared_picture, thumbnails
from tools.metrics.protocol import Protocol
from tools.metrics.sets import VideoSet
from tools.training.files import whole_file
from tools.training.runtime import Runtime

LOOKED_AT = 12  # closest pairs, of generated clips and of different training videos
MOST_CLIPS = 64  # of one video; of a longer one they overlap by less
MOST_FRAMES = 1500  # of a training video that a clip is laid over, around the nearest window
CHUNK = 64  # frames in memory at full size

SHOWN = 6  # frames of a clip
SIDE, MARGIN, LABEL = 96, 4, 40  # pixels
BACKGROUND, INK, FAINT, ALARM = (24, 24, 26), (236, 233, 228), (165, 160, 155), (255, 150, 120)


def search(
    generated: VideoSet,
    real: VideoSet,
    protocol: Protocol,
    extractor: FeatureExtractor,
    *,
    flips: bool,
    cache: Path | None,
    runtime: Runtime,
    batch_size: int = 8,
    workers: int = 2,
) -> Memorisation:
    """The nearest training clip of every clip of a set of generated videos, on every process.

    Clips lie densely over the videos of both sides, overlapping by half, so that a copied stretch
    is met wherever it begins. Brightness and contrast are evened out before the network sees them.

    Inputs:  protocol   of which frame size, clip length, strides and seed count
             extractor  of clips
             flips      whether mirrored training clips are searched too, as where training mirrors
             the rest   as `tools.metrics.extraction.extract` takes it
    Raises:  ValueError, FileNotFoundError in one line
    """
    dense = replace(
        protocol,
        real_offset="dense",
        fake_offset="dense",
        max_real_clips=0,
        max_fake_clips=0,
    )
    straight = LevelledExtractor(extractor)
    mirrored = LevelledExtractor(extractor, mirrored=True)

    def features(videos: VideoSet, side: Side, *extractors: FeatureExtractor) -> Extraction:
        return extract(
            videos,
            side,
            dense,
            extractors,
            cache=cache,
            runtime=runtime,
            batch_size=batch_size,
            workers=workers,
            clips_per_video=MOST_CLIPS,
        )

    training = features(real, "real", straight, *([mirrored] if flips else [])).features
    fake = features(generated, "fake", straight).features[straight.name]
    found = find_nearest(
        training[straight.name],
        fake,
        flipped=training.get(mirrored.name),
        extractor=straight.name,
        caveat=extractor.caveat,
    )
    return look_closer(found, real.sources, generated.sources)


def look_closer(
    found: Memorisation,
    real: Sequence[Source],
    fake: Sequence[Source],
    count: int = LOOKED_AT,
) -> Memorisation:
    """The same findings, with the pixels of the closest pairs compared.

    The closest pairs of different training videos are looked at in the same way, for they tell
    how much pixels agree that nobody has copied.
    """
    real_by_name, fake_by_name = _by_name(real), _by_name(fake)
    chosen = found.closest[:count]
    rivals = _closest_training_pairs(found, count)
    stretches = _Stretches(real_by_name)
    names = {pair.training for pair in chosen} | {found.training[row][0] for row, _ in rivals}
    shared = shared_picture(
        [thumbnails(real_by_name[name].read(_window_of(found, name))) for name in sorted(names)]
    )

    def match(clip: Tensor, row: int) -> Match | None:
        video, window = found.training[row]
        first, frames = stretches.around(video, window)
        pattern = [index - window[0] for index in window]
        place = best_match(clip, frames, pattern, shared, flips=found.flips)
        return place and replace(place, frames=[first + index for index in place.frames])

    matches = {
        pair.row: match(
            thumbnails(fake_by_name[pair.generated].read(pair.generated_window)), pair.training_row
        )
        for pair in chosen
    }
    ordinary = [
        match(thumbnails(real_by_name[found.training[row][0]].read(found.training[row][1])), other)
        for row, other in rivals
    ]
    return replace(
        found,
        pairs=[replace(pair, match=matches.get(pair.row)) for pair in found.pairs],
        reference_matches=[each for each in ordinary if each is not None],
    )


def write_contact_sheet(
    path: Path,
    found: Memorisation,
    real: Sequence[Source],
    fake: Sequence[Source],
    count: int = LOOKED_AT,
) -> None:
    """A picture of the closest pairs: each generated clip above the training clip next to it.

    The training clip is shown where its pixels fit best, mirrored where that fits better.
    """
    real_by_name, fake_by_name = _by_name(real), _by_name(fake)
    shown = found.closest[:count]
    strips = [
        (
            pair,
            _strip(fake_by_name[pair.generated], pair.generated_window),
            _training_strip(pair, real_by_name),
        )
        for pair in shown
    ]
    columns = max(strip.shape[1] for _, strip, _ in strips)
    title = _title(found)
    heights = LABEL + 2 * (SIDE + MARGIN) + 3 * MARGIN
    top = LABEL * len(title) // 2 + 4 * MARGIN
    sheet = Image.new("RGB", (columns + 2 * MARGIN, top + heights * len(strips)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(title):
        draw.text((2 * MARGIN, MARGIN + line * LABEL // 2), text, INK, _font())
    for index, (pair, generated, training) in enumerate(strips):
        y = top + index * heights
        alarm = pair.match is not None and found.is_copy(pair.match)
        for line, text in enumerate(_labels(pair, alarm)):
            colour = ALARM if alarm else (INK, FAINT)[line]
            draw.text((2 * MARGIN, y + line * LABEL // 2), text, colour, _font())
        sheet.paste(Image.fromarray(generated), (MARGIN, y + LABEL))
        sheet.paste(Image.fromarray(training), (MARGIN, y + LABEL + SIDE + MARGIN))
    with whole_file(path) as file:
        sheet.save(file, format="PNG")  # type: ignore[arg-type]


def _title(found: Memorisation) -> list[str]:
    quantiles = ", ".join(f"{100 * q:g} %: {found.threshold(q):.3f}" for q in (0.01, 0.05, 0.5))
    lines = [
        "Closest pairs: generated clip above, nearest training clip below",
        f"distances between training videos: {quantiles}",
    ]
    return [*lines, found.caveat or found.extractor]


def _labels(pair: Pair, alarm: bool) -> tuple[str, str]:
    mirrored = pair.match.flipped if pair.match else pair.flipped
    pixels = f"   pixels: correlation {pair.match.correlation:.2f}" if pair.match else ""
    others = f"{max(0.0, 1 - pair.quantile):.0%} of" if pair.quantile else "all"
    first = "COPY   " if alarm else ""
    first += f"distance {pair.distance:.3f}, nearer than {others} training pairs{pixels}"
    frames = pair.match.frames if pair.match else pair.training_window
    where = f"{frames[0]}-{frames[-1]}" if frames else "?"
    second = f"{pair.generated}  /  {pair.training}, frames {where}"
    return first, second + (", mirrored" if mirrored else "")


def _training_strip(pair: Pair, sources: Mapping[str, Source]) -> NDArray[np.uint8]:
    window = pair.match.frames if pair.match else pair.training_window
    flipped = pair.match.flipped if pair.match else pair.flipped
    return _strip(sources[pair.training], window, flipped)


def _strip(source: Source, window: Sequence[int], flipped: bool = False) -> NDArray[np.uint8]:
    """Frames spread evenly over a clip, side by side: (SIDE, width, 3) uint8."""
    places = np.linspace(0, len(window) - 1, min(SHOWN, len(window))).round().astype(int)
    frames = resize_centre_crop(source.read([window[k] for k in places]), SIDE)
    if flipped:
        frames = frames.flip(-1)
    padded = torch.nn.functional.pad(frames, (0, MARGIN))
    strip: NDArray[np.uint8] = padded.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy()
    return strip[:, :-MARGIN]


class _Stretches:
    """Thumbnails of training videos, read once each."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self.known: dict[tuple[str, int], Tensor] = {}

    def around(self, name: str, window: Sequence[int]) -> tuple[int, Tensor]:
        """The first frame and the thumbnails of a video, or of its part around a window."""
        count = self.sources[name].count()
        first = 0
        if count > MOST_FRAMES:
            middle = (window[0] + window[-1]) // 2
            first = max(0, min(count - MOST_FRAMES, middle - MOST_FRAMES // 2))
        key = (name, first)
        if key not in self.known:
            end = min(count, first + MOST_FRAMES)
            chunks = [range(k, min(k + CHUNK, end)) for k in range(first, end, CHUNK)]
            parts = [thumbnails(self.sources[name].read(list(chunk))) for chunk in chunks]
            self.known[key] = torch.cat(parts)
        return first, self.known[key]


def _closest_training_pairs(found: Memorisation, count: int) -> list[tuple[int, int]]:
    """(row, nearest row of another video) of the training, the closest of each video."""
    pairs: list[tuple[int, int]] = []
    seen: set[str] = set()
    for row in found.reference.argsort().tolist():
        name = found.training[row][0]
        if name not in seen:
            seen.add(name)
            pairs.append((row, int(found.reference_rows[row])))
    return pairs[:count]


def _window_of(found: Memorisation, name: str) -> Sequence[int]:
    return next(window for video, window in found.training if video == name)


def _by_name(sources: Sequence[Source]) -> dict[str, Source]:
    return {source.name: source for source in sources}


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
