"""Drawn eyes that stand in for patients, and the wider, public kind that starts are trained on."""

from fedgan_secure.data.phantoms.phantoms import CLASSES, GRADES, PhantomSettings, write_hospitals
from fedgan_secure.data.phantoms.public_phantoms import LESIONS, VERSION, draw_public

__all__ = ["CLASSES", "GRADES", "LESIONS", "VERSION", "PhantomSettings", "draw_public", "write_hospitals"]
