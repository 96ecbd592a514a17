"""How good generated videos are: features, distances between sets of them, and their report."""
