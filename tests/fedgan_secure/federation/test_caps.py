"""A hospital's cap is its own: from its own file and its own ledger, raised with its own key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgan_audits.errors import BudgetRefused, RecordInvalid
from fedgan_audits.ledger.ledger import Ledger
from fedgan_cli.cap import command
from fedgan_secure.errors import InputError
from fedgan_secure.policy.settings import own_cap
from fedgan_secure.site.cap_raising import raise_cap, shown
from tests.fedgan_secure.federation.small_federation import FIRST, SmallFederation


@pytest.mark.parametrize(
    ("own", "asked", "cap"), [(None, None, None), (4.0, None, 4.0), (None, 5.0, 5.0), (4.0, 9.0, 4.0), (4.0, 3.0, 3.0)]
)
def test_a_federation_may_only_lower_what_the_hospitals_own_file_says(
    tmp_path: Path, own: float | None, asked: float | None, cap: float | None
) -> None:
    place = tmp_path / "hospital.toml"
    if own is not None:
        place.write_text(f"[privacy]\nepsilon_cap = {own}\n")
    assert own_cap(place, asked) == cap


@pytest.mark.parametrize("text", ["epsilon_cap = 0", "epsilon_cap = -1.0", "epsilon_cap = inf", "epsilon = 3.0"])
def test_a_wrong_cap_in_the_file_is_named(tmp_path: Path, text: str) -> None:
    place = tmp_path / "hospital.toml"
    place.write_text(f"[privacy]\n{text}\n")
    with pytest.raises(InputError, match=r"hospital\.toml: privacy\.epsilon") as caught:
        own_cap(place, None)
    assert caught.value.hint


def test_a_cap_that_is_left_off_or_raised_still_holds_and_is_in_the_report(tmp_path: Path) -> None:
    """The coordinator decided it with a flag before: without the flag the next round was free."""
    world = SmallFederation(tmp_path)
    hospital = world.hospitals["a"]
    mechanism = world.policy.mechanism_record()
    hospital.ledger.reserve("last-year", 1, mechanism.model_copy(update={"steps": 1}), 1e-4, 3.0)
    for asked in (None, 50.0):
        hospital.cap = asked
        assert hospital.standing_cap == 3.0 and hospital.cap_in(1) == 3.0
    played = world.play(1, FIRST)
    report = world.report(played, played.after)
    listed = {row.name: row.cap for row in report[0].report.aggregation.participants}
    assert listed == {"a": 3.0, "b": None, "c": None, "d": None}
    hospital.ledger.raise_cap(90.0, "the board agreed", hospital.identity.private_key)
    assert hospital.cap_in(1) == 3.0 and hospital.cap_in(2) == 50.0  # what round 1 was held against stays its cap
    assert world.review("a", played, report) == []
    hospital.sign(report[0].payload)
    hospital.cap = 0.01
    assert hospital.refusal(2) is not None
    hospital.refuse(2)
    hospital.cap = None
    with pytest.raises(BudgetRefused):
        hospital.reserve(2)
    world.close()


def test_the_command_shows_and_raises_a_cap_with_the_sites_own_key(tmp_path: Path) -> None:
    world = SmallFederation(tmp_path)
    site = tmp_path / "a"
    (site / "hospital.toml").write_text("[privacy]\nepsilon_cap = 5.0\n")
    hospital = world.hospitals["a"]
    hospital.ledger.reserve("last-year", 1, world.policy.mechanism_record(), 1e-4, 4.0)
    world.close()

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(command, [str(site), *arguments], catch_exceptions=True)
        return done.output if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)

    assert json.loads(said("--json")) == {"site": str(site), "settings": 5.0, "ledger": 4.0, "cap": 4.0}
    assert "identity.pem does not exist" in said("--raise-to", "6", "--reason", "agreed")
    hospital.identity.save(site / "identity.pem")
    assert "A raise needs" in said("--raise-to", "6") and "A raise needs" in said("--reason", "x")
    assert "exclude each other" in said("--raise-to", "6", "--lift", "--reason", "x")
    assert "does not raise it" in said("--raise-to", "3", "--reason", "agreed")
    assert "what counts     epsilon 5" in said("--raise-to", "6", "--reason", "agreed")
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.standing_cap() == 6.0
    assert raise_cap(site, None, "over") == {"settings": 5.0, "ledger": None, "cap": 5.0}
    with pytest.raises(RecordInvalid, match="holds no cap"):
        raise_cap(site, None, "over")
    with pytest.raises(InputError, match="does not exist") as caught:
        shown(tmp_path / "nowhere")
    assert caught.value.hint
