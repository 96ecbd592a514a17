"""From a clip to a scene of Gaussians: cameras and their judge, depth, fit, results."""
