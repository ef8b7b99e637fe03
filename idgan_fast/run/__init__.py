"""One training run: its folder, its checkpoints, its loop, and what it says."""
