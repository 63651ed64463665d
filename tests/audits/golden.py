"""The golden pages and figures: what this renderer makes of fixed facts, frozen in `tests/vectors/golden-pages.json`.

`python -m tests.audits.golden` is the one command after a change to what is rendered. Where anything differs from what
is frozen, it raises `VERSION` in `renderers.py` by one, freezes what is rendered now, and names the fields of reports
that changed: those that are sentences go into `renderers.REWORDED` with the new number, so that older reports verify.
Where nothing differs, it changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits import canonical_json
from fedgan_audits.pages import index, renderers, wording
from fedgan_audits.report import release_texts
from fedgan_audits.report.report import build_round
from tests.audits.conftest import MECHANISM, RELEASE, Run, sha256, small_png, variants

ROOT = Path(__file__).resolve().parents[2]
FROZEN = ROOT / "tests" / "vectors" / "golden-pages.json"
SOURCE = Path(renderers.__file__)
TEXTS = ("templates/base.html.j2", "templates/parts.html.j2", "templates/round.html.j2", "templates/index.html.j2",
         "templates/style.css", "provisions/1.json", "provisions/2.json")  # fmt: skip
"""Files whose every byte may be rendered, also where no page below happens to show it."""


def fixed_run(folder: Path, **settings: Any) -> Run:
    """A run whose keys do not change from one day to the next."""
    names = ("coordinator", *settings.get("names", ("a", "b", "c", "d")))
    keys = {name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()) for name in names}
    return Run(folder, keys=keys, **settings)


def made() -> dict[str, Any]:
    """What this version renders: a digest of every page, the fields of every report, digests of all fixed texts.

    The name of the renderer is left out of all of it, so that two renderers that make the same are seen to.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folders = iter(range(1000))

        def make(**settings: Any) -> Run:
            return fixed_run(Path(scratch) / str(next(folders)), **settings)

        drafts = variants(make)
        earlier = (MECHANISM.model_copy(update={"steps": 40}),)
        drafts["capped"] = build_round(make().record(1, hospital={"a": {"earlier": earlier, "cap": 8.0}}))
        whole, released = make(rounds=2).all_rounds(), make(rounds=2, release=RELEASE).all_rounds()
        pages = {name: draft.html for name, draft in drafts.items()}
        pages["with picture"] = whole.drafts[1].html
        for name, run in (("whole", whole), ("released", released)):
            pages[f"index {name}"] = (run.public / "index.html").read_bytes()
        rows = [index.IndexRow.of(draft.report) for draft in whole.drafts]
        for outcome in ("running", "ended early", "refused"):
            facts = whole.facts(outcome, "As said.")
            pages[f"index {outcome}"] = index.render_index(facts, rows, whole.drafts[-1].report, small_png(7))
        pages["index empty"] = index.render_index(whole.facts("refused", "Every hospital refused."), [], None)
    reports = {name: leaves(draft.report.model_dump(mode="json")) for name, draft in drafts.items()}
    return {
        "pages": {name: sha256(nameless(page)) for name, page in pages.items()},
        "reports": {name: _digests(found) for name, found in reports.items()},
        "figures": {name: _figures(found) for name, found in reports.items()},
        "texts": {**_files(), **_sentences()},
    }


def nameless(page: bytes) -> bytes:
    """A page without the name of its renderer."""
    return page.replace(f"Renderer {renderers.RENDERER}.".encode(), b"Renderer.")


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every field of a report by its path, without the renderer's name."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in leaves(part, f"{path}.{key}" if path else key).items()}
    if isinstance(value, list):
        return {k: v for index, part in enumerate(value) for k, v in leaves(part, f"{path}[{index}]").items()}
    return {} if path == "renderer" else {path: value}


def _digests(found: dict[str, Any]) -> dict[str, str]:
    """A digest of each top-level section of a report."""
    sections: dict[str, dict[str, Any]] = {}
    for path, value in found.items():
        sections.setdefault(re.split(r"[.\[]", path)[0], {})[path] = value
    return {name: sha256(canonical_json.canonical(part))[:16] for name, part in sections.items()}


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """What a reader takes from a report: its verdict, reasons, figures, limits and statuses."""
    return {
        path: value
        for path, value in found.items()
        if path.startswith(
            ("verdict.", "composition.hospitals", "privacy.epsilon", "privacy.gdp_mu", "privacy.profile")
        )
        or path.endswith((".status", ".self_test_summary"))
    }


def _files() -> dict[str, str]:
    return {name: sha256((SOURCE.parents[1] / name).read_bytes())[:16] for name in TEXTS}


def _sentences() -> dict[str, str]:
    """Every constant text of the modules that hold nothing but sentences."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": sha256(repr(value).encode())[:16]
        for module in (wording, release_texts)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str | tuple)
    }


def frozen() -> dict[str, Any]:
    """What was frozen, with the number of its renderer."""
    return dict(json.loads(FROZEN.read_text(encoding="utf-8")))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, as "kind: name: section or field"."""
    found = []
    for kind in ("pages", "reports", "figures", "texts"):
        old, new = before.get(kind, {}), now[kind]
        for name in sorted(old.keys() | new.keys()):
            one, other = old.get(name), new.get(name)
            if isinstance(one, dict) and isinstance(other, dict):
                parts = [part for part in sorted(one.keys() | other.keys()) if one.get(part) != other.get(part)]
                found += [f"{kind}: {name}: {part}" for part in parts]
            elif one != other:
                found.append(f"{kind}: {name}")
    return found


def main() -> int:
    """Freeze what is rendered now; raise the number where it differs from what was frozen."""
    if sys.argv[1:] == ["--freeze"]:
        text = json.dumps({"renderer": renderers.VERSION, **made()}, indent=1, ensure_ascii=False, sort_keys=True)
        FROZEN.write_text(text + "\n", encoding="utf-8")
        return 0
    before = frozen() if FROZEN.exists() else {"renderer": renderers.VERSION - 1}
    changed = differences(before, made())
    if not changed and before["renderer"] == renderers.VERSION:
        sys.stdout.write(f"nothing that is rendered changed: {renderers.RENDERER} stays\n")
        return 0
    if changed and before["renderer"] == renderers.VERSION:
        source = SOURCE.read_text(encoding="utf-8")
        line, raised = f"VERSION = {renderers.VERSION}\n", f"VERSION = {renderers.VERSION + 1}\n"
        SOURCE.write_text(source.replace(line, raised, 1), encoding="utf-8")
        sys.stdout.write(f"raised the renderer's number to {renderers.VERSION + 1}\n")
    sys.stdout.write(
        "\n".join([*changed[:40], "fields of reports that are sentences go into renderers.REWORDED"]) + "\n"
    )
    again = [sys.executable, "-m", "tests.audits.golden", "--freeze"]
    return subprocess.run(again, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
