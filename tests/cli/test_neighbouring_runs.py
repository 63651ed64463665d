"""No value of a report depends on patients but through the noisy model: two runs that differ in one patient, compared.

Keys, masks, samples and noise are fixed (--insecure-deterministic), so whatever else differs between the two runs is
what the patient's images changed.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import fedgan

pytestmark = pytest.mark.xdist_group("neighbouring")

DIGESTS = re.compile(
    r"header\.(previous_report|started|ended)|aggregation\.facts\.(transcript_sha256|model_before|model_after|sum_sha256)"
    r"|aggregation\.participants\.\d+\.annex_commitment|verification\.artefacts\.\d+\.sha256"
)
"""Where the two may differ: digests of the model and of what holds it, commitments to annexes, and times."""
SETTINGS = [
    "--image-size", "28", "--steps-per-round", "2", "--sampling-probability", "0.5", "--declared-patients", "10",
    "--epsilon", "20", "--delta", "1e-3", "--rounds", "2", "--seed", "5", "--insecure-deterministic",
]  # fmt: skip


def one_run(hospitals: Path, output: Path, placement: str) -> Path:
    names = [word for name in "abc" for word in ("--hospital", f"{name}={hospitals / name}")]
    done = fedgan("run", *names, *SETTINGS, "--noise-placement", placement, "--output", output, "--quiet")
    assert done.code == 0, done.err
    return output


@pytest.fixture(scope="module", params=["per_hospital", pytest.param("distributed", marks=pytest.mark.slow)])
def neighbours(
    request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two runs on the same folders, but for one patient of hospital b; of either placement of the noise."""
    root = tmp_path_factory.mktemp("neighbours")
    folders = root / "data"
    shutil.copytree(finished / "phantoms", folders, ignore=shutil.ignore_patterns(".*"))
    first = one_run(folders, root / "with", request.param)
    before = json.loads((first / "site/b/confidential/round-0001.json").read_text())["annex"]["patients"]
    images = sorted((folders / "b").glob("PHANTOM-b-0002*"))
    assert images
    for image in images:
        image.unlink()
    second = one_run(folders, root / "without", request.param)
    after = json.loads((second / "site/b/confidential/round-0001.json").read_text())["annex"]["patients"]
    assert after == before - 1, (before, after)
    return first, second


def predicate(run: Path, number: int) -> Any:
    envelope = json.loads((run / f"public/reports/round-{number:04d}.dsse.json").read_bytes())
    return json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ, as dotted paths."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}" if place else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{index}")
    elif one != other:
        yield place


@pytest.mark.parametrize("number", [1, 2])
def test_reports_differ_in_digests_and_times_alone(neighbours: tuple[Path, Path], number: int) -> None:
    one, other = (predicate(run, number) for run in neighbours)
    found = set(differences(one, other))
    assert {place for place in found if not DIGESTS.fullmatch(place)} == set()
    assert "aggregation.facts.model_after" in found, "the patient took part in neither run: nothing was compared"


def test_the_policy_is_the_same_to_the_byte(neighbours: tuple[Path, Path]) -> None:
    one, other = ((run / "public/policy.json").read_bytes() for run in neighbours)
    assert one == other


@pytest.mark.parametrize("page", ["reports/round-0001.html", "reports/round-0002.html", "index.html"])
def test_pages_differ_in_digests_times_and_pictures_alone(neighbours: tuple[Path, Path], page: str) -> None:
    def plain(run: Path) -> str:
        text = (run / "public" / page).read_text(encoding="utf-8")
        text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)
        return re.sub(r"\d{1,2} \w+ \d{4}, \d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d|\d\d:\d\d UTC", "TIME", text)

    one, other = (plain(run) for run in neighbours)
    assert one == other


def test_transcripts_are_of_the_same_size_and_hold_no_vector(neighbours: tuple[Path, Path]) -> None:
    for number in (1, 2):
        sizes = {(run / f"public/transcripts/round-{number:04d}.cbor").stat().st_size for run in neighbours}
        assert len(sizes) == 1 and sizes.pop() < 200_000


def test_the_annex_does_differ_and_stays_on_site(neighbours: tuple[Path, Path]) -> None:
    for run in neighbours:
        count = str(json.loads((run / "site/b/confidential/round-0001.json").read_text())["annex"]["training"])
        assert count not in "".join(
            path.read_text(errors="replace") for path in (run / "public/reports").glob("*.html")
        )
