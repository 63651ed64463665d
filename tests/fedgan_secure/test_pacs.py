"""Generated DICOM in a real PACS: Orthanc, on loopback, takes every file by C-STORE and files each as somebody else."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fedgan_secure.test_generate import COLOUR, GREY, PROVENANCE
from tests.fedgan_secure.test_generate import write_dicom as write
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.xdist_group("pacs")
TITLE = "ORTHANC"


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Pacs:
    """A PACS that runs: ports of its DICOM and of its REST interface."""

    dicom: int
    http: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as answer:
            return json.load(answer)

    def store(self, files: list[Path]) -> None:
        words = ["storescu", "-aec", TITLE, "127.0.0.1", str(self.dicom), *map(str, files)]
        subprocess.run(words, check=True, timeout=HANG_SECONDS, capture_output=True)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    server, sender = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin"), shutil.which("storescu")
    if not server or not sender:
        pytest.skip("no Orthanc (Debian package orthanc) or no storescu (dcmtk)")
    folder, made = tmp_path_factory.mktemp("pacs"), Pacs(_free(), _free())
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "files"), "IndexDirectory": str(folder / "files"),
                "DicomPort": made.dicom, "HttpPort": made.http, "DicomAet": TITLE, "DicomCheckCalledAet": False,
                "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True,
            }
        )
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([server, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            end = time.monotonic() + HANG_SECONDS
            while True:
                try:
                    made.get("/system")
                    break
                except OSError:
                    assert running.poll() is None, (folder / "log").read_text()[-2000:]
                    assert time.monotonic() < end, "Orthanc did not start"
                    time.sleep(0.2)
            yield made
        finally:
            running.terminate()
            running.wait(HANG_SECONDS)


def test_every_generated_image_is_somebody_of_its_own(pacs: Pacs, tmp_path: Path) -> None:
    levels = ("patients", "studies", "series", "instances")
    before = {level: set(pacs.get(f"/{level}")) for level in levels}
    grey = write(tmp_path / "grey", GREY, None, PROVENANCE)
    colour = write(tmp_path / "colour", COLOUR, None, PROVENANCE)
    pacs.store([*grey, *colour])
    new = {level: set(pacs.get(f"/{level}")) - before[level] for level in levels}
    assert {level: len(found) for level, found in new.items()} == dict.fromkeys(levels, len(grey) + len(colour))
    patients = [pacs.get(f"/patients/{one}")["MainDicomTags"] for one in new["patients"]]
    assert all(one["PatientID"].startswith("SYNTHETIC-") for one in patients)
    shown = pacs.get(f"/instances/{min(new['instances'])}/simplified-tags")
    assert (shown["BurnedInAnnotation"], shown["SeriesDescription"]) == ("NO", "Synthetic images")


def test_the_pictures_come_back_as_they_were(pacs: Pacs, tmp_path: Path) -> None:
    (file,) = write(tmp_path / "one", COLOUR[:1] ^ 1, None, PROVENANCE)
    before = set(pacs.get("/instances"))
    pacs.store([file])
    (new,) = set(pacs.get("/instances")) - before
    address = f"http://127.0.0.1:{pacs.http}/instances/{new}/preview"
    with urllib.request.urlopen(address, timeout=10) as answer:
        shown = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))
    assert np.array_equal(shown, COLOUR[0] ^ 1)
