"""Public starts: a generator and a feature network trained without privacy on public pictures, before any patient's."""

from fedgan_secure.starts.architecture import LATENT, Architecture
from fedgan_secure.starts.shared import refuse_shared_pictures, shared_pictures
from fedgan_secure.starts.start import PublicStart, check_fits, read_start, shipped_start

__all__ = [
    "LATENT",
    "Architecture",
    "PublicStart",
    "check_fits",
    "read_start",
    "refuse_shared_pictures",
    "shared_pictures",
    "shipped_start",
]
