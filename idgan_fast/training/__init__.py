"""The two stages, and what their steps are made of: losses, optimizers, precision, augmentation, compilation."""
