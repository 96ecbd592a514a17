"""One stage of COLMAP in a process of its own: `python -m` this module, then JOB.

COLMAP may end its process instead of raising an error, so nothing else runs here. JOB is a JSON
file that the module `colmap` beside this one wrote; the stage leaves arrays in the file that JOB
names as output, and its last line there is written in one move, so that a file is whole or absent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

EXHAUSTIVE = 100  # below so many frames every pair is matched
MODELS, TRIALS = 4, 50  # a clip that needs more is not one scene, and the search takes minutes
NEAR = 12  # otherwise each frame with so many after it, and with some much further off


def main(arguments: list[str]) -> int:
    """Run the stage that the job names."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    job = json.loads(Path(arguments[0]).read_text())
    pycolmap.logging.minloglevel = pycolmap.logging.WARNING.value
    pycolmap.set_random_seed(job["seed"])
    arrays = match(job) if job["stage"] == "match" else build(job)
    output = Path(job["output"])
    partial = output.with_name("partial_" + output.name)
    np.savez(partial, allow_pickle=False, **arrays)
    os.replace(partial, output)
    return 0


# ---------------------------------------------------------------- matching


def match(job: dict[str, Any]) -> Arrays:
    """Features, matches, and what of them a common motion of two pictures explains."""
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_PINHOLE"
    reader.camera_params = f"{job['focal']},{job['width'] / 2},{job['height'] / 2}"
    reader.mask_path = job["masks"]
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads = job["threads"]
    extraction.use_gpu = False
    extraction.sift.peak_threshold = job["peak_threshold"]
    database, images = job["database"], job["images"]
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = job["threads"]
    matching.use_gpu = False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    verification.compute_relative_pose = True
    if job["count"] < EXHAUSTIVE:
        pycolmap.match_exhaustive(
            database,
            matching_options=matching,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
    else:
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap = NEAR
        pairing.quadratic_overlap = True
        pycolmap.match_sequential(
            database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
    return read_matches(database)


def read_matches(database_path: str) -> Arrays:
    """Verified matches of all pairs, and the number of features of each frame."""
    database = pycolmap.Database.open(database_path)
    try:
        images = database.read_all_images()
        number = {image.image_id: frame_number(image.name) for image in images}
        points = {image.image_id: database.read_keypoints(image.image_id) for image in images}
        ids, geometries = database.read_two_view_geometries()
        pairs, sizes, kinds = [], [], []
        places: list[NDArray[np.float32]] = []
        used: dict[int, set[int]] = {image.image_id: set() for image in images}
        for pair, geometry in zip(ids, geometries, strict=True):
            inliers = np.asarray(geometry.inlier_matches)
            if len(inliers) == 0:
                continue
            first, second = pycolmap.pair_id_to_image_pair(pair)
            pairs.append((number[first], number[second]))
            sizes.append(len(inliers))
            kinds.append(pycolmap.TwoViewGeometryConfiguration(geometry.config).name)
            used[first].update(inliers[:, 0].tolist())
            used[second].update(inliers[:, 1].tolist())
            here = points[first][inliers[:, 0], :2]
            there = points[second][inliers[:, 1], :2]
            places.append(np.concatenate([here, there], 1).astype(np.float32))
        features, matched = np.zeros((2, len(images)), np.int64)
        for image_id, found in points.items():
            features[number[image_id]] = len(found)
            matched[number[image_id]] = len(used[image_id])
    finally:
        database.close()
    return {
        "pairs": np.array(pairs, np.int64).reshape(-1, 2),
        "sizes": np.array(sizes, np.int64),
        "kinds": np.array(kinds, np.str_),
        "places": np.concatenate(places) if places else np.zeros((0, 4), np.float32),
        "features": features,
        "matched": matched,
    }


# ---------------------------------------------------------------- mapping


def build(job: dict[str, Any]) -> Arrays:
    """All models that the mapper makes: figures of each, cameras and points of the largest."""
    folder = Path(job["models"])
    folder.mkdir(parents=True, exist_ok=True)
    mapper = incremental if job["stage"] == "incremental" else glomap
    models = list(mapper(job, folder).values())
    # number 0 is the first model, not the largest
    models.sort(key=lambda model: (model.num_reg_images(), model.num_points3D()), reverse=True)
    sizes = np.array([model.num_reg_images() for model in models], np.int64)
    return {"sizes": sizes, **(describe(models[0]) if models else {})}


def incremental(job: dict[str, Any], folder: Path) -> dict[int, Any]:
    """COLMAP's mapper, content with little."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = job["seed"]
    options.num_threads = 1  # more make results differ from run to run
    options.min_model_size = 3
    options.max_num_models = MODELS
    options.init_num_trials = TRIALS
    options.ba_refine_focal_length = job["refine_focal"]
    options.extract_colors = False
    for part in (options.mapper, options.triangulation):
        part.random_seed = job["seed"]
    options.mapper.num_threads = 1
    options.mapper.init_min_tri_angle = 4.0
    options.mapper.init_min_num_inliers = 30
    options.mapper.init_max_forward_motion = 1.0
    options.mapper.abs_pose_min_num_inliers = 12
    options.mapper.abs_pose_refine_focal_length = job["refine_focal"]
    found: dict[int, Any] = pycolmap.incremental_mapping(
        job["database"], job["images"], str(folder), options
    )
    return found


def glomap(job: dict[str, Any], folder: Path) -> dict[int, Any]:
    """The global mapper."""
    options = pycolmap.GlobalPipelineOptions()
    options.random_seed = job["seed"]
    options.num_threads = 1  # more make results differ from run to run
    mapper = options.mapper
    mapper.random_seed = job["seed"]
    mapper.num_threads = 1
    mapper.rotation_averaging.random_seed = job["seed"]
    mapper.retriangulation.random_seed = job["seed"]
    mapper.global_positioning.random_seed = job["seed"]
    mapper.global_positioning.use_gpu = False
    mapper.bundle_adjustment.refine_focal_length = job["refine_focal"]
    mapper.bundle_adjustment.ceres.use_gpu = False
    found: dict[int, Any] = pycolmap.global_mapping(
        job["database"], job["images"], str(folder), options
    )
    return found


def describe(model: Any) -> Arrays:
    """Cameras, points, and observations of a model as arrays."""
    images = sorted(
        (image for image in model.images.values() if image.has_pose),
        key=lambda image: frame_number(image.name),
    )
    poses = np.zeros((len(images), 4, 4))
    poses[:, 3, 3] = 1
    for place, image in enumerate(images):
        poses[place, :3] = image.cam_from_world().matrix()
    camera = next(iter(model.cameras.values()))
    numbers = {image.image_id: frame_number(image.name) for image in images}
    points = list(model.points3D.values())
    observed: list[tuple[int, int, float, float]] = []
    for place, point in enumerate(points):
        for element in point.track.elements:
            seen = model.images[element.image_id].points2D[element.point2D_idx].xy
            observed.append((place, numbers[element.image_id], float(seen[0]), float(seen[1])))
    table = np.array(observed, np.float64).reshape(-1, 4)
    return {
        "numbers": np.array([frame_number(image.name) for image in images], np.int64),
        "world_to_camera": poses,
        "intrinsics": np.asarray(camera.calibration_matrix(), np.float64),
        "points": np.array([point.xyz for point in points], np.float64).reshape(-1, 3),
        "errors": np.array([point.error for point in points], np.float64),
        "observed_point": table[:, 0].astype(np.int64),
        "observed_frame": table[:, 1].astype(np.int64),
        "observed_at": table[:, 2:],
    }


def end_with(parent: int) -> None:
    """End when the process that asked has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def frame_number(name: str) -> int:
    """Number of a frame from the name of its picture."""
    return int(Path(name).stem)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
