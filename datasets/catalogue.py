"""The three endoscopy data sets of the paper. Numbers that no source here states are None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What to know of a data set before preparing it."""

    folder: str  # of the videos, below data/
    frames_folder: str  # of the extracted frames, below data/
    content: str
    videos: int | None  # in the published data set
    fps: float | None  # of the published footage
    licence: str
    source: str

    @property
    def summary(self) -> str:
        """One line for people."""
        videos = "unknown number of" if self.videos is None else str(self.videos)
        fps = "unknown" if self.fps is None else f"{self.fps:g}"
        return (
            f"data/{self.folder} -> data/{self.frames_folder}: {self.content}; "
            f"{videos} videos, frames per second {fps}; licence: {self.licence}; {self.source}"
        )


DATA_SETS = {
    "col": DataSet(
        folder="Colonoscopic",
        frames_folder="Colonoscopic_frames",
        content="colonoscopy with gastrointestinal lesions",
        videos=None,
        fps=None,
        licence="unknown; ask its authors",
        source="Mesejo et al. 2016, Computer-aided classification of gastrointestinal lesions in "
        "regular colonoscopy",
    ),
    "kva": DataSet(
        folder="Kvasir-Capsule",
        frames_folder="Kvasir-Capsule_frames",
        content="capsule endoscopy of the small bowel",
        videos=None,
        fps=None,
        licence="see the data set's page",
        source="doi:10.1038/s41597-021-00920-z",
    ),
    "cho": DataSet(
        folder="CholecT45",
        frames_folder="CholecT45_frames",
        content="laparoscopic gallbladder removal, published as folders of frames",
        videos=45,
        fps=1.0,
        licence="CC BY-NC-SA 4.0, as its superset CholecT50",
        source="github.com/CAMMA-public/cholect45",
    ),
}
