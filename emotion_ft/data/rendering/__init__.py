"""Songs rendered from their own labels, for everybody who cannot download DEAM."""
