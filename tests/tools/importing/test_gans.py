"""Published pickles of StyleGAN-V and MoStGAN-V become runs of this project."""
