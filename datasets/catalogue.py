"""The three endoscopy data sets of the paper. Numbers that no source here states are None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What to know of a data set before preparing it."""

    title: str
    folder: str  # of the videos, below data/
    frames_folder: str  # of the extracted frames, below data/
    content: str
    videos: int | None  # in the published data set
    paper_clips: int | None  # that the Endora paper trained on
    fps: float | None  # of the published footage
    splits: str
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
        title="Colonoscopic",
        folder="Colonoscopic",
        frames_folder="Colonoscopic_frames",
        content="colonoscopy with gastrointestinal lesions",
        videos=None,
        paper_clips=None,
        fps=None,
        splits="unknown",
        licence="unknown; ask its authors",
        source="Mesejo et al. 2016, Computer-aided classification of gastrointestinal lesions in "
        "regular colonoscopy",
    ),
    "kva": DataSet(
        title="Kvasir-Capsule",
        folder="Kvasir-Capsule",
        frames_folder="Kvasir-Capsule_frames",
        content="capsule endoscopy of the small bowel",
        videos=None,
        paper_clips=None,
        fps=None,
        splits="unknown",
        licence="see the data set's page",
        source="doi:10.1038/s41597-021-00920-z",
    ),
    "cho": DataSet(
        title="CholecT45",
        folder="CholecT45",
        frames_folder="CholecT45_frames",
        content="laparoscopic gallbladder removal, published as folders of frames",
        videos=45,
        paper_clips=None,
        fps=1.0,
        splits="published by its authors",
        licence="CC BY-NC-SA 4.0, as its superset CholecT50",
        source="github.com/CAMMA-public/cholect45",
    ),
}
