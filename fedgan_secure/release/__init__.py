"""Whether a run may be released, and the cards that go with it."""

from fedgan_secure.release.export_gate import Judgement, Override, judge
from fedgan_secure.release.releasing import CARD, STATEMENT, release
from fedgan_secure.release.start_card import starts_from_moments

__all__ = ["CARD", "STATEMENT", "Judgement", "Override", "judge", "release", "starts_from_moments"]
