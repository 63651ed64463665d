"""A coordinator that publishes something else than the sums lead to gets no hospital's signature: whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_audits.report.reading import read_payload, record_of
from fedgan_audits.signing.envelope import parse
from fedgan_secure.federation import prepare
from fedgan_secure.federation.refusals import SignatureRefused
from fedgan_secure.federation.results.published_files import Published
from fedgan_secure.federation.run import _Run, carry_on
from fedgan_secure.networks.keras_file import KerasForm
from tests.fedgan_secure.federation.adapted_world import Silent, federation, small_adaptations

GENERATOR, SHEET = "model/generator.keras", "samples/round-0001.png"
Files = dict[str, bytes]


class Killed(Exception):  # noqa: N818 - stands for a signal that nothing catches
    """The process ends here."""


class Other:
    """A family that publishes other files than the one it stands for."""

    def __init__(self, honest: Any, change: Callable[[Files], Files]) -> None:
        self._honest, self._change = honest, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def files(self, vector: np.ndarray, progress: Any = None) -> Files:
        return self._change(self._honest.files(vector, progress))


def another_generator(made: Any) -> Callable[[Files], Files]:
    """The honest file with one weight that is not what the sums lead to."""

    def change(files: Files) -> Files:
        form = KerasForm.of(made.coordinator.family.generator(made.coordinator.average))
        weights = form.weights_of(files[GENERATOR])
        assert weights is not None
        weights[3] = weights[3] + np.float32(0.25)
        return {**files, GENERATOR: form.file(weights)}

    return change


def signers(root: Path, number: int) -> list[str]:
    """Who signed a round's report."""
    return sorted(path.name.split(".")[1] for path in (root / "public/reports").glob(f"round-{number:04d}.*.sig"))


def killed_after_sealing(made: Any) -> None:
    """Carry a run on until its first round is sealed, and no further."""

    class Cut(_Run):
        def _publish(self, *_: Any) -> None:
            raise Killed

    with pytest.raises(Killed):
        Cut(made, Silent()).carry_on()
    made.close()


@pytest.fixture(scope="module", params=["adapted", "seed"])
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[str, list[str]]]]:
    """A run of two rounds that was killed when its first was sealed, and what a hospital said of other files before."""
    root = tmp_path_factory.mktemp(request.param) / "run"
    with small_adaptations():
        made = federation(root, 2, start=None if request.param == "adapted" else "none")
    seen: list[tuple[str, list[str]]] = []
    honest = _Run._draft

    def draft(self: Any, facts: Any, files: Files, incidents: Any, colluders: int, shown: Published) -> Any:
        """Ask one hospital about lies first, then go on honestly."""
        result = honest(self, facts, files, incidents, colluders, shown)
        hospital = self.hospitals["a"]
        sheet = shown.files[SHEET]
        lies: dict[str, Files | None] = {
            "nothing": None,
            "no sheet": {name: data for name, data in shown.files.items() if name != SHEET},
            "another file": {**shown.files, "model/photographs.keras": b"x"},
            "a longer sheet": {**shown.files, SHEET: sheet + b"x"},
            "a longer generator": {**shown.files, GENERATOR: shown.files[GENERATOR] + b"x"},
            "another generator": another_generator(self.federation)(dict(shown.files)),
        }
        for what, changed in lies.items():
            listed = None if changed is None else Published(changed, shown.vector)
            record = record_of(read_payload(result.payload)[0])
            if changed is not None:
                artefacts = [item for item in record.artefacts if not item.path.startswith(("model/", "samples/"))]
                artefacts += [_artefact(name, data) for name, data in changed.items()]
                record = record.model_copy(update={"artefacts": tuple(artefacts)})
            review = hospital.result_review()
            seen.append((what, review.objections(record, listed, hospital._attempt)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_draft", draft)
        killed_after_sealing(made)
    return root, seen


def _artefact(name: str, data: bytes) -> Any:
    from fedgan_secure.federation.coordinator import artefact

    return artefact(name, data, "model")


@pytest.fixture
def copied(sealed: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed[0], tmp_path / "run"))


def test_each_lie_is_objected_to(sealed: tuple[Path, list[tuple[str, list[str]]]]) -> None:
    assert [what for what, found in sealed[1] if found] == [what for what, _ in sealed[1]] and len(sealed[1]) == 6


@pytest.fixture
def resumed(copied: Path) -> Iterator[tuple[Path, Any]]:
    made = prepare.resume(copied, None)
    yield copied, made
    made.close()


def test_after_a_kill_the_staged_files_are_compared_again(copied: Path) -> None:
    """Nobody has a session in memory any more; the hospitals know what their sum led to from their own folders."""
    staged = copied / "checkpoints/staged-0001/public" / GENERATOR
    whole = staged.read_bytes()
    staged.write_bytes(whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:])
    made = prepare.resume(copied, None)
    with pytest.raises(SignatureRefused, match="other files than those"):
        carry_on(made, Silent())
    made.close()
    assert not list((copied / "public/reports").glob("*.sig"))
    staged.write_bytes(whole)
    shutil.rmtree(copied / "site/b/models")
    made = prepare.resume(copied, None)
    with pytest.raises(SignatureRefused, match="hospital b"):
        carry_on(made, Silent())
    made.close()


def test_a_coordinator_that_publishes_another_generator_gets_no_signature(resumed: tuple[Path, Any]) -> None:
    """The killed round is honest and is signed by all; in the next one the coordinator lies."""
    root, made = resumed
    made.coordinator.family = Other(made.coordinator.family, another_generator(made))
    display = Silent()
    outcome = carry_on(made, display)
    assert (outcome.status, outcome.exit_code) == ("aborted", 4)
    assert signers(root, 1) == ["a", "b", "c", "coordinator"] and signers(root, 2) == ["coordinator"]
    envelope = parse((root / "public/reports/round-0002.dsse.json").read_bytes())
    record = record_of(read_payload(envelope.payload)[0])
    assert {row.name for row in record.missing_cosignatures} == {"a", "b", "c"}
    assert any("lead to" in note for note in display.notes)
    manifest = json.loads((root / "public/manifest.dsse.json").read_bytes())
    assert len(manifest["signatures"]) == 1
