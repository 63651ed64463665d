"""What is one hospital's alone: declarations, keys, caps, withdrawals, the annex and its own checks."""

from fedgan_secure.site.annex import commitment_of, plain, read_annex, write_annex
from fedgan_secure.site.cap_raising import raise_cap, shown
from fedgan_secure.site.cohorts import foreign_cohort, refuse_foreign_cohort
from fedgan_secure.site.declared import declarations, refuse_foreign_declarations
from fedgan_secure.site.key_rotation import Done, KeyPlace, refuse_revoked, revoke, rotate
from fedgan_secure.site.self_tests import open_release_watch, open_watch, published, save_watch
from fedgan_secure.site.shared_people import equal_pixels, refuse_other_names, refuse_shared_folders
from fedgan_secure.site.site_keys import load_identity, load_secret
from fedgan_secure.site.withdrawals import note_people, standing, take_effect, withdraw

__all__ = [
    "Done",
    "KeyPlace",
    "commitment_of",
    "declarations",
    "equal_pixels",
    "foreign_cohort",
    "load_identity",
    "load_secret",
    "note_people",
    "open_release_watch",
    "open_watch",
    "plain",
    "published",
    "raise_cap",
    "read_annex",
    "refuse_foreign_cohort",
    "refuse_foreign_declarations",
    "refuse_other_names",
    "refuse_revoked",
    "refuse_shared_folders",
    "revoke",
    "rotate",
    "save_watch",
    "shown",
    "standing",
    "take_effect",
    "withdraw",
    "write_annex",
]
