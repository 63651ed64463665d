"""The page of `data check` in a real browser: axe-core finds nothing, nothing overflows, nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser

from fedgan_cli import data_page
from fedgan_secure.data import LoadSettings, load
from tests.audits.test_browser import PATIENCE, RULES, browser  # noqa: F401 - a fixture
from tests.fedgan_secure.data.conftest import make_dicom, noise

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with something in every table, and a hostile file name."""
    root = tmp_path_factory.mktemp("archive") / "set"
    root.mkdir()
    for number in range(6):
        dataset = make_dicom(noise(number // 5 * number, 24, 24), f"P{number}", "US" if number == 4 else "MR")
        dataset.StudyDate, dataset.InstitutionName = "20200101", "somewhere"
        dataset.private_block(0x0029, "VENDOR", create=True).add_new(0x10, "LO", "x")
        dataset.save_as(root / f"{number}.dcm", enforce_file_format=True)
    (root / "<b onload=x>&\x1b.dcm").write_bytes(b"x" * 200)
    (root / "labels.csv").write_text("file,label\n0.dcm,a\n1.dcm,b\n9.dcm,a\n2.dcm,\n" + "z" * 120 + ".dcm,a\n")
    place = root.parent / "page.html"
    result = load(root, LoadSettings(image_size=28, channels=1, workers=1))
    findings = result.findings
    assert all((findings.duplicates, findings.unlabelled, findings.labels_without_image, findings.quarantined))
    data_page.write(place, data_page.render(str(root), result, f"fedgan-secure run --dataset {root}"))
    return place


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (360, "light")])
def test_axe_finds_nothing_and_nothing_is_fetched(
    browser: Browser,  # noqa: F811 - the fixture
    page: Path,
    width: int,
    scheme: str,
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    shown = context.new_page()
    asked: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(page.as_uri())
    shown.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    found = shown.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", list(RULES))
    overflow = shown.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert asked == [page.as_uri()]
    assert len(found["passes"]) > 20, "axe-core looked at next to nothing"
    problems = [
        (rule["id"], node["html"][:200])
        for kind in ("violations", "incomplete")
        for rule in found[kind]
        for node in rule["nodes"]
    ]
    assert problems == []
    assert overflow <= width


def test_what_comes_from_the_folder_is_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "&lt;b onload=x&gt;&amp;\ufffd.dcm" in text
    assert "<b onload" not in text and "\x1b" not in text
    assert "20200101" not in text and "somewhere" not in text
