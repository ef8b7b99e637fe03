"""What the layers of a network multiply and move: lists of layers for idgan_fast.tools.roofline."""
