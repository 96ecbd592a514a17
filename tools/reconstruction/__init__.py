"""From a clip to a scene of Gaussians, or to a reason why there is none.

    cameras/     poses from files or by COLMAP, and the judge who says whether to trust them
    depth/       depth of the frames, from files, networks, brightness or the cameras' points
    splatting/   Gaussians: rendering, deformation, growth, fit; knows no files but its own
    results/     what is measured, drawn and written of a finished scene

The first three know only those above them. `frames` reads clips, `preparing` brings frames, cameras
and depth together, `scene` tells the story from clip to results, and `memory` lets it go on after a
stop.
"""
