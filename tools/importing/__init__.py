"""Settings and weights of this project from those of original checkpoints, one file per family."""
