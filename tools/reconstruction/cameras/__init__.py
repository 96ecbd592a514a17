"""Cameras of a clip: read from files, or searched for by COLMAP and judged."""
