"""The mathematics of diffusion, with no network and no data in it."""
