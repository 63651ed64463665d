"""Attacks on what the product itself does: what an adversary can show, beside what is proved."""
