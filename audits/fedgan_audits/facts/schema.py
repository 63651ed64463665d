"""The JSON Schemas (draft 2020-12) of what is signed, generated from the typed models and published in `schemas/`.

`python -m fedgan_audits.facts.schema` writes them again; a test compares them with the models. Schemas of older
versions stay in `schemas/` as they were published; what reads them is `versions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from fedgan_audits.facts.run import Manifest, SignOff
from fedgan_audits.facts.sections import FIRST_NOTE, SCHEMA_NOTE, RoundReport

SCHEMAS: Mapping[str, tuple[type[BaseModel], str]] = {
    "round-report-3.json": (RoundReport, "The signed report of one round"),
    "run-manifest-0.json": (Manifest, "The signed manifest of one run"),
    "sign-off-0.json": (SignOff, "The signed record that a round was reviewed"),
}


def schema_text(name: str) -> str:
    """The schema published under `name`."""
    model, title = SCHEMAS[name]
    schema = model.model_json_schema(mode="serialization")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:fedgan-secure:schema:{name.removesuffix('.json')}",
        "title": title,
        "$comment": SCHEMA_NOTE if model is RoundReport else FIRST_NOTE,
    }
    return json.dumps({**schema, **head}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write all schemas to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        (folder / name).write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parents[1] / "schemas")
