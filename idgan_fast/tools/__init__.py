"""Commands beside training, a file each."""
