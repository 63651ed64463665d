"""The page of a search, as `tune report` makes it, in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser  # noqa: F401 - the fixtures' annotations name it

from fedgan_secure.tuning import outcome
from fedgan_secure.tuning import search as searching
from fedgan_secure.tuning.experiment import Experiment
from fedgan_secure.tuning.report import write_report
from tests.audits.test_browser import WIDTHS, Show, browser, findings, show  # noqa: F401 - fixtures
from tests.fedgan_secure.tuning.test_search import FAKE, NAMES, Display

pytestmark = pytest.mark.xdist_group("browser")


def search(tmp_path: Path, changes: dict[str, Any]) -> searching.SearchDirectory:
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
    raw: dict[str, Any] = {
        "search": {"trains_on": "patients", "workers": 1, "seeds": 3, **changes},
        "space": {"privacy": {"noise_multiplier": [2.0, 3.0, 4.0], "l2_clip_norm": [1.0, 4.0]}},
        "settings": {
            "data": {"hospital": {name: str(tmp_path / "data" / name) for name in NAMES}, "image_size": 28},
            "federation": {"rounds": 2, "steps_per_round": 2},
            "privacy": {"declared_patients": 10, "sampling_probability": 0.2, "delta": 1e-3},
        },
        "patients": {"site_dir": str(tmp_path / "sites")},
    }
    directory = searching.begin(Experiment.checked(raw, "test"), tmp_path / "search")
    searching.carry_on(directory, Display(), command=FAKE)
    return directory


@pytest.mark.parametrize(
    "changes",
    [{"method": "grid"}, {"method": "random", "charge": "winner_alone", "mean_trials": 3.0}],
    ids=["every trial", "winner alone"],
)
def test_axe_finds_nothing(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]  # noqa: F811 - the fixture
) -> None:  # fmt: skip
    monkeypatch.setenv("FEDGAN_FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(outcome, "_tried", with_picture(tmp_path))
    written = write_report(search(tmp_path, changes), tmp_path / "report")
    for width, scheme in (("wide", "light"), ("narrow", "dark")):
        shown = show(written.page, width, scheme)
        assert findings(shown) == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        assert shown.locator("img").count() >= 1


def with_picture(tmp_path: Path) -> Any:
    """Trials as they are read, each with a sheet of samples, which replaced trials do not leave."""
    sheet = tmp_path / "sheet.png"
    Image.new("RGB", (60, 40), (40, 90, 120)).save(sheet)
    read = outcome._tried

    def tried(*arguments: Any) -> outcome.Tried:
        return replace(read(*arguments), pictures=(sheet,))

    return tried
