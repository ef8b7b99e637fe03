"""Settings of a run: their fields, the presets, and the command line that sets them."""
