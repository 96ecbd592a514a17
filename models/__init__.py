"""Methods, the networks they train, and the frozen networks they use."""
