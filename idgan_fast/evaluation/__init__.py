"""What a run is measured by: the code of real images, how well it is read back, and images to look at."""
