"""Looking at a hospital's own cap on epsilon, and raising it with the hospital's own key."""

from __future__ import annotations

from pathlib import Path

from fedgan_audits.ledger import Ledger, smallest
from fedgan_protocols.primitives import Identity
from fedgan_secure.errors import InputError
from fedgan_secure.policy import HospitalSettings
from fedgan_secure.site.key_rotation import KeyPlace, refuse_revoked


def shown(site: Path) -> dict[str, float | None]:
    """Return the cap of a site: `settings` of its hospital.toml, `ledger` the one that stands, `cap` what counts.

    Raises:
        InputError: there is no ledger, or hospital.toml cannot be read.
    """
    with Ledger.open(_ledger(site), read_only=True) as ledger:
        return _found(site, ledger)


def raise_cap(site: Path, cap: float | None, reason: str) -> dict[str, float | None]:
    """Raise the cap that a site's ledger holds its hospital to (None: lift it); returns as :func:`shown`.

    Raises:
        InputError: there is no ledger or no identity, or the key is revoked.
        RecordInvalid: no cap stands, or the new one is no raise.
    """
    path, identity = _ledger(site), site / "identity.pem"
    if not identity.exists():
        raise InputError(
            f"{identity} does not exist: only the hospital's own key raises its cap", hint="give the hospital's site"
        )
    refuse_revoked(KeyPlace.of(identity))
    with Ledger.open(path) as ledger:
        ledger.raise_cap(cap, reason, Identity.load(identity).private_key)
        return _found(site, ledger)


def _found(site: Path, ledger: Ledger) -> dict[str, float | None]:
    own, stands = HospitalSettings.read(site / "hospital.toml").privacy.epsilon_cap, ledger.standing_cap()
    return {"settings": own, "ledger": stands, "cap": smallest(own, stands)}


def _ledger(site: Path) -> Path:
    path = site / "ledger.sqlite"
    if not path.exists():
        raise InputError(
            f"{path} does not exist: no round was reserved at this site yet",
            hint="give a hospital's site, such as sites/north or runs/2026-01-31-1/site/a",
        )
    return path
