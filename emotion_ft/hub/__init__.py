"""Everything that goes to the Hub: pushes, repositories and demo Spaces."""
