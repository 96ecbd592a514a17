"""From files on disk to tensors, and back."""
