"""The two stages: one file each, holding its networks, optimisers and one training step."""
