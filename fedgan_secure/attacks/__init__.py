"""Attacks on what the product itself does: what an adversary can show, beside what is proved."""

from fedgan_secure.attacks.adapted_run import AdaptedVerdict, attack_adapted_run
from fedgan_secure.attacks.finished_run import read_policy
from fedgan_secure.attacks.games_page import ADAPTED_REMARKS, adapted_headline, adapted_page, sentences
from fedgan_secure.attacks.page import REMARKS, attack_page, headline
from fedgan_secure.attacks.rehearsal import attack_run
from fedgan_secure.attacks.verdict import Verdict

__all__ = [
    "ADAPTED_REMARKS",
    "REMARKS",
    "AdaptedVerdict",
    "Verdict",
    "adapted_headline",
    "adapted_page",
    "attack_adapted_run",
    "attack_page",
    "attack_run",
    "headline",
    "read_policy",
    "sentences",
]
