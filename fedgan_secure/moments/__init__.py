"""A start from released moments alone, for pictures that no public start draws."""
