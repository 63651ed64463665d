"""Small runs with a public start, in this process: networks are built once, and a test may break a hospital's part."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgan_cli.main import main
from fedgan_secure.adaptation import adapting
from fedgan_secure.data.phantoms.phantoms import PhantomSettings, write_hospitals
from fedgan_secure.federation.families import adapted_hospital, adapted_policy
from fedgan_secure.models.adapted_spec import AdaptedSpec
from tests.cli.conftest import Done

PATIENTS = 8
QUICK = [
    "--steps-per-round", "2", "--sampling-probability", "0.5", "--declared-patients", str(PATIENTS), "--delta", "1e-3",
    "--noise-multiplier", "2", "--release-noise", "5", "--preprocessing", "fundus-crop/1", "--quiet",
]  # fmt: skip


@contextlib.contextmanager
def small_models(fit_steps: int = 0) -> Iterator[pytest.MonkeyPatch]:
    """While this lasts, new runs have a small pool and a short fit; the policy says so, so a resumed run has, too."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = functools.partial(AdaptedSpec, pool=50, fit_steps=fit_steps, fit_batch=10)
        patch.setattr(adapted_policy, "AdaptedSpec", tiny)
        patch.setattr(adapting, "FAKES", 10)
        patch.setattr(adapted_hospital, "BATCH", 12)
        yield patch


def folders(root: Path, names: str) -> list[str]:
    """Phantoms of 64 pixels for each hospital, written once, and the options that name them."""
    made = write_hospitals(root, tuple(names), PhantomSettings(patients=PATIENTS, image_size=64, seed=3))
    return [word for name, place in made.items() for word in ("--hospital", f"{name}={place}")]


def command(*arguments: str | Path) -> Done:
    """What the command line says to a user, and its exit code; a defect of ours fails the test that meets it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    assert isinstance(code, int) and code != 1, err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


def cleanly(root: Path) -> None:
    """Fail unless every check of `audit verify` holds, with the keys and without."""
    for trust in ([], ["--trust", root / "public" / "trust"]):
        done = command("audit", "verify", root, *trust)
        assert done.code == 0 and "FAIL" not in done.out, done.out
