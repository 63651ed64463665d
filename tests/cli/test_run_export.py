"""`audit export RUN`: the command as a user gives it, over a run with real keys and transcripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from benchmarks.audit_trail.trail import Trail
from click.testing import CliRunner, Result

from fedgan_audits.errors import RecordInvalid, VerificationFailed
from fedgan_audits.pages.printing import PdfUnavailable
from fedgan_cli.main import cli

FORMS = {"article-30": "md", "dpia": "md", "oscal": "json", "registry-card": "json", "html": "html"}


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    made = Trail(tmp_path_factory.mktemp("export") / "run", 2, 3)
    for number in (1, 2):
        made.add(number, quick=False)
    made.close(2)
    return made


@pytest.fixture(scope="module")
def keys(trail: Trail, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, identity in {**trail.identities, "coordinator": trail.coordinator}.items():
        (folder / f"{name}.pub.pem").write_bytes(identity.public_pem())
    return folder


def export(*words: object) -> Result:
    return CliRunner().invoke(cli, ["audit", "export", *map(str, words)])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_written_and_says_how_it_was_verified(
    trail: Trail, keys: Path, tmp_path: Path, form: str
) -> None:
    place = tmp_path / f"made.{FORMS[form]}"
    done = export(trail.public, "--format", form, "--trust", keys, "--output", place)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"File: {place}\n" and "with keys from a source other than the run" in done.stderr
    text = place.read_text(encoding="utf-8")
    if FORMS[form] == "json":
        assert json.loads(text)
    if form == "html":
        assert place.read_bytes() == (trail.public / "index.html").read_bytes()
    if form == "registry-card":
        assert "Left to fill in: deployment.basic.data_curators" in done.stderr
    if form == "dpia":
        assert "not assessed" in done.stderr


def test_a_german_page_goes_to_standard_output(trail: Trail) -> None:
    done = export(trail.public, "--format", "html", "--round", 2, "--language", "de")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("<!DOCTYPE html>\n<html lang=\"de\">") and "Runde 2 von 2" in done.stdout  # fmt: skip
    assert '<span lang="en">' not in done.stdout.replace(
        '<span lang="en">10 inputs of at most 2^26 sum to less than 2^31.</span>', ""
    ), "all that a real run records has a translation"
    assert "keys that came with the run" in done.stderr


def test_pages_and_documents_become_pdf(trail: Trail, tmp_path: Path) -> None:
    for name, words in {
        "round.pdf": ("--format", "pdf", "--round", 1, "--language", "de"),
        "article-30.pdf": ("--format", "article-30"),
    }.items():
        done = export(trail.public, *words, "--output", tmp_path / name)
        if isinstance(done.exception, PdfUnavailable):
            pytest.skip(str(done.exception))
        assert done.exit_code == 0, done.output
        assert (tmp_path / name).read_bytes().startswith(b"%PDF-")


def test_a_run_that_was_altered_gives_no_export(trail: Trail, tmp_path: Path) -> None:
    copied = tmp_path / "public"
    shutil.copytree(trail.public, copied)
    page = copied / "reports/round-0002.html"
    page.write_bytes(page.read_bytes().replace(b"PASS", b"FINE"))
    for form in ("html", "article-30"):
        done = export(copied, "--format", form, "--output", tmp_path / "made")
        assert isinstance(done.exception, VerificationFailed) and "reports/round-0002.html" in str(done.exception)
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("RUN",), "give --ledger"),
        (("--format", "oscal"), "give RUN"),
        (("RUN", "--format", "oscal", "--language", "de"), "belong to the formats html and pdf"),
        (("RUN", "--format", "dpia", "--round", "1"), "belong to the formats html and pdf"),
        (("RUN", "--format", "oscal", "--output", "x.pdf"), "is no PDF"),
        (("RUN", "--format", "html", "--language", "fr"), "'fr' is not one of"),
        (("RUN", "--format", "docx"), "'docx' is not one of"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    trail: Trail, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = export(*(trail.public if word == "RUN" else word for word in words))
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_and_what_is_there_already_is_refused(trail: Trail, tmp_path: Path) -> None:
    empty = export(tmp_path, "--format", "oscal")
    assert isinstance(empty.exception, RecordInvalid) and "holds no run" in str(empty.exception)
    late = export(trail.public, "--format", "html", "--round", 9)
    assert isinstance(late.exception, RecordInvalid) and "no report of round 9" in str(late.exception)
    (tmp_path / "mine").write_text("mine")
    taken = export(trail.public, "--format", "html", "--output", tmp_path / "mine")
    assert isinstance(taken.exception, RecordInvalid) and (tmp_path / "mine").read_text() == "mine"
