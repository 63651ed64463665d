"""Image folders in, pixels and patient pseudonyms out."""
