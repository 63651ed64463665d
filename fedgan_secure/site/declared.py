"""What people declare about a federation, and each hospital about itself: into the policy, and checked against it."""

from __future__ import annotations

from collections.abc import Mapping

from fedgan_secure.errors import InputError
from fedgan_secure.policy import Declaration, FederationPolicy, HospitalSettings, RunSettings
from fedgan_secure.storage import SiteDirectory


def declarations(settings: RunSettings, sites: Mapping[str, SiteDirectory]) -> tuple[Declaration, ...]:
    """What the federation's file declares, then what each hospital's own `hospital.toml` does."""
    found = [Declaration(topic=topic, text=text) for topic, text in settings.governance.declared()]
    for name, site in sites.items():
        found += own_declarations(site, name)
    return tuple(found)


def own_declarations(site: SiteDirectory, name: str) -> tuple[Declaration, ...]:
    """What a hospital declares itself, under topics that bear its name."""
    own = HospitalSettings.read(site.settings).governance.declared()
    return tuple(Declaration(topic=f"{topic}{_in_the_name_of(name)}", text=text) for topic, text in own)


def refuse_foreign_declarations(policy: FederationPolicy, site: SiteDirectory, name: str) -> None:
    """Refuse a policy that declares in a hospital's name what its own `hospital.toml` does not, or less.

    Raises:
        InputError: naming the topics that differ.
    """
    said = {entry.topic: entry.text for entry in policy.governance if entry.topic.endswith(_in_the_name_of(name))}
    own = {entry.topic: entry.text for entry in own_declarations(site, name)}
    differ = sorted(topic for topic in {*said, *own} if said.get(topic) != own.get(topic))
    if differ:
        raise InputError(
            f"hospital {name}: the policy and {site.settings} differ in what is declared: {', '.join(differ)}",
            hint="restore the file that the run was started with, or start a new run with the new declarations",
        )


def _in_the_name_of(name: str) -> str:
    return f" (hospital {name})"
