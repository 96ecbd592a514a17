"""Depth of the frames of a clip, from files, networks, brightness, or the points of cameras."""
