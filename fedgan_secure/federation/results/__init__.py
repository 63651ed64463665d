"""The model that the sums lead to, and the files that it is published as, compared with what was received."""
