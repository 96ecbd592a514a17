"""Scenes of 3-D Gaussians: their parameters, how they are rendered, moved, grown and fitted."""
