"""Who a picture is of, and what in it could say so: identifiers, names, words and burned-in text."""

from fedgan_secure.data.identifiers.identifiers import SAYS_NO, SELDOM
from fedgan_secure.data.identifiers.profile import PROFILE_EDITION
from fedgan_secure.data.identifiers.safe_harbor import SOURCE

__all__ = [
    "PROFILE_EDITION",
    "SAYS_NO",
    "SELDOM",
    "SOURCE",
]
