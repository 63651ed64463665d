"""Draw from a published generator: load by its policy, draw, and write in a layout that others read."""

from fedgan_secure.synthesis.drawing import draw
from fedgan_secure.synthesis.generate import contact_sheet, contact_sheet_png, png_bytes
from fedgan_secure.synthesis.loading import load_generator, read_network
from fedgan_secure.synthesis.pictures import (
    COLUMNS,
    generator_of,
    levels_of,
    model_files,
    sample_sheet,
    sheet_levels,
    sheet_names,
)

__all__ = [
    "COLUMNS",
    "contact_sheet",
    "contact_sheet_png",
    "draw",
    "generator_of",
    "levels_of",
    "load_generator",
    "model_files",
    "png_bytes",
    "read_network",
    "sample_sheet",
    "sheet_levels",
    "sheet_names",
]
