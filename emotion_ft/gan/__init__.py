"""The conditional GAN that makes synthetic training windows."""
