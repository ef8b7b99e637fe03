"""The styled layer of StyleGAN2: its plan, its epilogue, and the composition where no kernel has it whole."""
