"""Makes `docs/sample-report/` anew from a small real run, and the pictures of `docs/reading-a-report.md` from it.

    make sample-report

A federation on phantoms is trained, one hospital drops out of its second round, and everything is exported from the
public folder, verified with the keys that the hospitals made. Pictures need Chromium. What is copied holds no path of
the machine; run id, keys, times and figures are those of the run, so a new sample differs from the last.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SAMPLE, IMAGES = DOCS / "sample-report", DOCS / "images"
KEPT = ("README.md", "federation.toml")
ROUND = 2
"""The round that is shown in German and as a PDF: a hospital dropped out of it."""
MOST_BYTES = 1_500_000
PICTURES = {
    "round-report.png": ("reports/round-0002.html", 1100, 1500),
    "sample-roll-up.png": ("index.html", 1100, 1700),
    "round-report-de.png": ("de/reports/round-0002.html", 1100, 900),
}
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def fedgan(*words: str | Path) -> str:
    """Run the command as a user would; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "fedgan_cli.main", *map(str, words)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"fedgan-secure {' '.join(map(str, words[:2]))} ended with {done.returncode}")
    return done.stdout


def train(work: Path) -> tuple[Path, Path]:
    """The run's public folder and a folder with the public keys, taken from the hospitals' own directories."""
    run, keys = work / "run", work / "keys"
    fedgan("run", SAMPLE / "federation.toml", "--drop", f"d@{ROUND}", "--output", run)
    shutil.copytree(run / "public" / "trust", keys)
    return run / "public", keys


def fill(public: Path, keys: Path) -> None:
    """Everything below `docs/sample-report/` but the files that are kept."""
    for place in SAMPLE.iterdir():
        if place.name not in KEPT:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    for name in ("index.html", "policy.json", "manifest.dsse.json"):
        shutil.copy(public / name, SAMPLE / name)
    (SAMPLE / "reports").mkdir()
    for file in sorted((public / "reports").iterdir()):
        signed = (f"round-{ROUND:04d}.pae", f"round-{ROUND:04d}.coordinator.sig")
        if file.suffix in (".html", ".json") or file.name in signed:
            shutil.copy(file, SAMPLE / "reports" / file.name)
    (SAMPLE / "trust").mkdir()
    shutil.copy(public / "trust" / "coordinator.pub.pem", SAMPLE / "trust")
    (SAMPLE / "verification.txt").write_text(fedgan("audit", "verify", public, "--trust", keys), encoding="utf-8")
    german = ("--language", "de")
    for name, words in {
        "de/index.html": ("--format", "html", *german),
        f"de/reports/round-{ROUND:04d}.html": ("--format", "html", "--round", str(ROUND), *german),
        f"exports/round-{ROUND:04d}.pdf": ("--format", "pdf", "--round", str(ROUND)),
        "exports/article-30.md": ("--format", "article-30"),
        "exports/dpia.md": ("--format", "dpia"),
        "exports/assessment-results.json": ("--format", "oscal"),
        "exports/registry-card.json": ("--format", "registry-card"),
    }.items():
        fedgan("audit", "export", public, "--trust", keys, *words, "--output", SAMPLE / name)


def check(work: Path) -> None:
    """End with a message where the sample is too large or names a place on this machine."""
    files = [place for place in SAMPLE.rglob("*") if place.is_file()]
    if (size := sum(place.stat().st_size for place in files)) > MOST_BYTES:
        raise SystemExit(f"the sample has {size} bytes, expected at most {MOST_BYTES}")
    for place in files:
        if any(str(path).encode() in place.read_bytes() for path in (work, DOCS.parent)):
            raise SystemExit(f"{place.relative_to(DOCS)} names a path of this machine")
    print(f"{len(files)} files, {size} bytes")  # noqa: T201


def picture(page: Path, target: Path, width: int, height: int) -> None:
    """The top of a page as a PNG."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("pictures need Chromium (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, *CHROMIUM, f"--user-data-dir={profile}", f"--window-size={width},{height}",
             f"--screenshot={target}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    from PIL import Image

    with Image.open(target) as shown:
        shown.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(target, optimize=True)


def date_readme() -> None:
    """Put the run's own figures into the sample's README."""
    said = (SAMPLE / "verification.txt").read_text(encoding="utf-8").strip().splitlines()[-1]
    place = SAMPLE / "README.md"
    text = place.read_text(encoding="utf-8")
    place.write_text(re.sub(r"(?m)^> .*$", f"> {said}", text), encoding="utf-8")


def main() -> None:
    """Train, export, check, picture."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fill(*train(work))
        check(work)
    date_readme()
    for name, (page, width, height) in PICTURES.items():
        picture(SAMPLE / page, IMAGES / name, width, height)


if __name__ == "__main__":
    main()
