"""How fast the project is: what `tools.sampling_study` measures."""
