"""Songs rendered from their own labels, for anyone who cannot download DEAM."""
