"""Commands that use a checkpoint: generate videos and write them to files."""
