"""How steady long videos are: what is measured of frames, drift over windows, seams, the report."""
