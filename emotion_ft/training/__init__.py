"""Training loops, and the numbers and pictures that come out of them."""
