"""Networks: the VAE, the paper's ResNet generator and discriminator, the dSprites pair, the VGAN discriminator."""
