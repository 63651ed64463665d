"""Public bounds of runs with a public start."""

MOST_IMAGES = 64
"""Images of a patient that the release takes, at most."""
