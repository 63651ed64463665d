from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageFile
from pydicom.dataset import FileDataset
from tests.patience import wait_until

from fedgan_secure.data import LoadSettings, load, pseudonym, unknown_exclusions
from fedgan_secure.data.pixels import pictures
from fedgan_secure.data.reading import cache, loading, parallel
from fedgan_secure.data.reading.parallel import Failed, map_batches
from fedgan_secure.errors import InputError

Picture = Callable[..., None]
Make = Callable[..., FileDataset]


def test_broken_files_among_good_ones_are_quarantined_with_their_reason(dicom_tree: Path) -> None:
    good = (dicom_tree / "p0" / "0.dcm").read_bytes()
    (dicom_tree / "p0" / "cut.dcm").write_bytes(good[:-200])
    (dicom_tree / "p0" / "text.dcm").write_text("not an image")
    (dicom_tree / "p0" / "zero.dcm").write_bytes(b"")
    result = load(dicom_tree, LoadSettings())
    assert (result.dataset.patients, result.findings.images, result.findings.files) == (5, 10, 10)
    assert dict(result.findings.quarantined) == {
        "p0/cut.dcm": "broken, truncated or inconsistent (ValueError)",
        "p0/text.dcm": "not DICOM: the mark DICM is missing",
        "p0/zero.dcm": "the file is empty",
    }


def test_nothing_left_is_an_error_with_the_reasons(dicom_tree: Path) -> None:
    for path in dicom_tree.rglob("*.dcm"):
        path.write_bytes(b"x" * 200)
    with pytest.raises(InputError, match="10 x not DICOM") as caught:
        load(dicom_tree, LoadSettings())
    assert caught.value.exit_code == 2


def test_a_file_without_patient_is_quarantined_unless_the_unit_is_the_image(dicom: Make, dicom_tree: Path) -> None:
    dicom(np.full((8, 8), 7, np.uint8), patient="").save_as(dicom_tree / "x.dcm", enforce_file_format=True)
    result = load(dicom_tree, LoadSettings())
    assert result.findings.quarantined == (("x.dcm", "its PatientID is missing or empty"),)
    by_image = load(dicom_tree, LoadSettings(unit="image"))
    assert (by_image.dataset.patients, len(by_image.dataset)) == (11, 11)
    assert any("weaker" in note for note in by_image.findings.notes)


def test_pictures_broken_renamed_and_oversized(
    eyepacs_tree: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = eyepacs_tree / "train"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(train / "1_left.jpeg", format="PNG")  # misnamed, but fine
    (train / "2_left.jpeg").write_bytes((train / "2_left.jpeg").read_bytes()[:-900])
    (train / "3_left.jpeg").write_text("hello")
    picture(train / "4_left.jpeg", 1, (400, 300))
    monkeypatch.setattr(pictures, "MAXIMUM_PIXELS", 100_000)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as a library for PDF does, to the whole process
    result = load(eyepacs_tree, LoadSettings(workers=1))
    assert dict(result.findings.quarantined) == {
        "train/2_left.jpeg": "broken or truncated (OSError)",
        "train/3_left.jpeg": "not a picture in a known format (JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000)",
        "train/4_left.jpeg": "400 x 300 pixels are more than the limit allows",
    }
    assert len(result.dataset) == 5


def test_a_picture_bomb_is_refused_by_its_header(eyepacs_tree: Path) -> None:
    bomb = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    bomb += (60000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    (eyepacs_tree / "train" / "9_left.jpeg").write_bytes(bomb)
    start = time.process_time()
    found = load(eyepacs_tree, LoadSettings()).findings
    assert [path for path, reason in found.quarantined if "limit allows" in reason] == ["train/9_left.jpeg"]
    assert time.process_time() - start < 2


def test_sixteen_bit_png_is_scaled_by_its_type(tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 0x4000, np.uint16)).save(tmp_path / "a.png")
    assert set(np.unique(pictures.read_picture(tmp_path / "a.png")[0])) == {64}


def test_identical_images_of_different_patients_are_reported_and_kept(eyepacs_tree: Path) -> None:
    train = eyepacs_tree / "train"
    (train / "2_left.jpeg").write_bytes((train / "1_left.jpeg").read_bytes())
    (train / "3_right.jpeg").write_bytes((train / "3_left.jpeg").read_bytes())
    result = load(eyepacs_tree, LoadSettings())
    assert result.findings.duplicates == (("train/1_left.jpeg", "train/2_left.jpeg"),)
    assert result.findings.duplicate_patients == (("1", "2"),)
    assert result.findings.duplicates_within_patient == (("train/3_left.jpeg", "train/3_right.jpeg"),)
    assert len(result.dataset) == 8


def test_duplicates_are_found_by_pixels_whatever_the_headers_say(dicom: Make, tmp_path: Path) -> None:
    for name in "ab":
        pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
        dicom(pixels, patient=name, StudyDescription=name).save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    assert load(tmp_path, LoadSettings()).findings.duplicates == (("a.dcm", "b.dcm"),)


def test_an_excluded_patient_is_left_out(dicom_tree: Path, eyepacs_tree: Path) -> None:
    result = load(dicom_tree, LoadSettings(exclude=("ID-2", "ID-99")))
    assert (result.dataset.patients, result.findings.excluded_found, result.findings.excluded_images) == (
        4,
        ("ID-2",),
        2,
    )
    assert load(eyepacs_tree, LoadSettings(exclude=("3",))).dataset.patients == 3
    nobody = load(eyepacs_tree, LoadSettings(exclude=("33",)))
    assert nobody.dataset.patients == 4
    assert any("none of the patients to exclude" in note for note in nobody.findings.notes)


@pytest.mark.parametrize("given", ["ID-2", " id-2", "ID-2\u00a0", "p2/0.dcm"])
@pytest.mark.parametrize("unit", ["patient", "image"])
def test_whom_to_exclude_is_found_however_written(
    dicom_tree: Path, given: str, unit: Literal["patient", "image"]
) -> None:
    found = load(dicom_tree, LoadSettings(exclude=(given, "ID-99"), unit=unit))
    assert found.findings.excluded_images == (1 if given.endswith(".dcm") else 2)
    assert len(found.dataset) == 10 - found.findings.excluded_images
    assert unknown_exclusions((given, "ID-99"), [found.findings]) == ("ID-99",)
    everybody = load(dicom_tree, LoadSettings(unit=unit)).people
    assert len(everybody) == 5  # persons, not images


def test_an_excluded_file_is_not_even_opened(eyepacs_tree: Path) -> None:
    for path in eyepacs_tree.rglob("3_*.*"):
        path.write_bytes(b"no picture")
    found = load(eyepacs_tree, LoadSettings(exclude=("3",))).findings
    assert (found.excluded_images, found.quarantined) == (2, ())


def test_symbolic_links_out_of_the_folder_are_refused(dicom_tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.dcm"
    outside.write_bytes((dicom_tree / "p0" / "0.dcm").read_bytes())
    (dicom_tree / "link.dcm").symlink_to(outside)
    (dicom_tree / "folder").symlink_to(tmp_path)
    (dicom_tree / "nowhere.dcm").symlink_to(tmp_path / "missing")
    (dicom_tree / "loop").symlink_to(dicom_tree)
    result = load(dicom_tree, LoadSettings())
    refused = dict(result.findings.quarantined)
    assert set(refused) == {"link.dcm", "folder", "nowhere.dcm", "loop"}
    assert all("symbolic link" in reason for reason in refused.values())
    assert len(result.dataset) == 10


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission_is_said(dicom_tree: Path) -> None:
    (dicom_tree / "p0" / "0.dcm").chmod(0)
    (dicom_tree / "p1").chmod(0)
    reasons = dict(load(dicom_tree, LoadSettings()).findings.quarantined)
    assert reasons == {"p0/0.dcm": "no permission to read it", "p1": "no permission to list this folder"}
    (dicom_tree / "p1").chmod(0o700)


def test_nothing_of_the_headers_reaches_the_data_set(dicom_tree: Path, secret: bytes, tmp_path: Path) -> None:
    result = load(dicom_tree, LoadSettings(secret=secret, cache_dir=tmp_path / "cache"))
    assert result.dataset.pseudonyms == tuple(pseudonym(secret, f"ID-{number}") for number in range(5))
    assert set(result.dataset.__slots__) == {
        "_labels", "_order", "_patient", "_rows", "_starts", "_store", "classes", "people", "pseudonyms",
    }  # fmt: skip
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            assert b"ID-" not in path.read_bytes()
            assert b"Real" not in path.read_bytes()


def test_exif_never_leaves_the_loader(eyepacs_tree: Path, secret: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Somebody Real"
    exif[0x0112] = 3  # turned by half a circle
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(eyepacs_tree / "train" / "1_left.jpeg", exif=exif, quality=95)
    result = load(eyepacs_tree, LoadSettings(secret=secret, cache_dir=tmp_path / "cache", preprocessing="plain/1"))
    first = result.dataset.pixels([0])[0]
    assert first[-6:].mean() > 240
    assert first[:40].mean() < 10
    assert not any(b"Somebody" in path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())


def _cached(tree: Path, directory: Path, secret: bytes, **more: Any) -> loading.LoadResult:
    return load(tree, LoadSettings(secret=secret, cache_dir=directory, **more))


def _count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    real = loading.map_batches

    def counting(target: str, common: Any, items: list[Any], **options: Any) -> Any:
        decoded.append(len(items))
        return real(target, common, items, **options)

    monkeypatch.setattr(loading, "map_batches", counting)
    return decoded


def test_a_second_start_decodes_nothing(
    dicom_tree: Path, tmp_path: Path, secret: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = _count_decoding(monkeypatch)
    first = _cached(dicom_tree, tmp_path / "c", secret)
    second = _cached(dicom_tree, tmp_path / "c", secret)
    assert decoded == [10]
    assert first.findings == second.findings
    assert first.dataset.pseudonyms == second.dataset.pseudonyms
    assert np.array_equal(first.dataset.images, second.dataset.images)
    assert isinstance(second.dataset.images, np.memmap)
    assert not second.dataset.images.flags.writeable


def test_a_change_of_files_settings_or_secret_builds_again(
    dicom_tree: Path, tmp_path: Path, secret: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = _count_decoding(monkeypatch)
    directory = tmp_path / "c"
    _cached(dicom_tree, directory, secret)
    _cached(dicom_tree, directory, secret, image_size=28)
    assert (len(decoded), len(list(directory.iterdir()))) == (2, 2)
    _cached(dicom_tree, directory, secret)
    assert len(decoded) == 2
    _cached(dicom_tree, directory, secret[::-1])
    assert len(decoded) == 3
    os.utime(dicom_tree / "p0" / "0.dcm", ns=(1, 1))
    _cached(dicom_tree, directory, secret)
    assert len(decoded) == 4
    assert len(list(directory.iterdir())) == 1


def test_a_withdrawn_patients_pixels_do_not_stay_in_the_cache(dicom_tree: Path, tmp_path: Path, secret: bytes) -> None:
    directory = tmp_path / "c"
    with_all = _cached(dicom_tree, directory, secret)
    gone = with_all.dataset.pixels(with_all.dataset.images_of(2)).tobytes()[:4000]
    _cached(dicom_tree, directory, secret, image_size=28)
    result = _cached(dicom_tree, directory, secret, exclude=("ID-2",))
    assert result.dataset.patients == 4
    (entry,) = directory.iterdir()
    assert gone not in (entry / "images.npy").read_bytes()


@pytest.mark.parametrize("damage", ["pixel", "index", "facts", "truncated", "missing"])
def test_a_damaged_entry_is_built_again(dicom_tree: Path, tmp_path: Path, secret: bytes, damage: str) -> None:
    directory = tmp_path / "c"
    good = np.array(_cached(dicom_tree, directory, secret).dataset.images)
    (entry,) = directory.iterdir()
    file = entry / {"index": "index.npz", "facts": "entry.json"}.get(damage, "images.npy")
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "facts":
        file.write_bytes(data.replace(b'"patients": 5', b'"patients": 4'))
    elif damage == "truncated":
        file.write_bytes(data[:-10])
    else:
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    assert cache.read_entry(directory, entry.name) is None
    again = _cached(dicom_tree, directory, secret)
    assert np.array_equal(again.dataset.images, good)
    assert cache.read_entry(directory, entry.name) is not None


def test_the_cache_belongs_to_its_owner_alone(dicom_tree: Path, tmp_path: Path, secret: bytes) -> None:
    directory = tmp_path / "c"
    directory.mkdir(mode=0o755)
    _cached(dicom_tree, directory, secret)
    for path in (directory, *directory.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_an_interrupted_build_leaves_nothing(
    dicom_tree: Path, tmp_path: Path, secret: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "c"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(dicom_tree, LoadSettings(secret=secret, cache_dir=directory), progress=interrupt)
    assert list(directory.iterdir()) == []
    leftover = directory / "building-999999999-x"
    leftover.mkdir()
    _cached(dicom_tree, directory, secret)
    assert not leftover.exists()


def test_a_full_disk_is_an_error_not_a_half_written_entry(
    dicom_tree: Path, tmp_path: Path, secret: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.ImageWriter, "append", full)
    with pytest.raises(InputError, match="no space left"):
        _cached(dicom_tree, tmp_path / "c", secret)
    assert list((tmp_path / "c").iterdir()) == []


def test_progress_reaches_the_end(dicom_tree: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    load(dicom_tree, LoadSettings(), progress=lambda *step: seen.append(step))
    assert seen[-1] == ("reading images", 10, 10)


def test_several_workers_give_the_same_as_one(tmp_path: Path, dicom: Make, secret: bytes) -> None:
    for number in range(150):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        dicom(pixels, f"{number // 2}").save_as(tmp_path / f"{number:03}.dcm", enforce_file_format=True)
    (tmp_path / "071.dcm").write_bytes(b"broken")
    one, two = (load(tmp_path, LoadSettings(secret=secret, workers=workers)) for workers in (1, 2))
    assert one.findings == two.findings
    assert one.dataset.pseudonyms == two.dataset.pseudonyms
    assert np.array_equal(one.dataset.images, two.dataset.images)


MISBEHAVING = """
import os, time

def misbehave(common, items):
    for item in items:
        if item == common["crash"]:
            os._exit(11)
        if item == common["hang"]:
            with open(common["hanging"], "a") as log:
                log.write("hanging\\n")
            time.sleep(1e6)
    return [item * 10 for item in items]
"""


class Patience:
    """The clock of the pool and its waiting: time passes only where all that is waited for hangs for good."""

    def __init__(self, log: Path) -> None:
        self.log, self.now, self.given_up = log, 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def wait(self, connections: Sequence[Any], timeout: float) -> list[Any]:
        ready: list[Any] = []

        def something() -> bool:
            ready.extend(connection.wait(connections, 0.02))
            hanging = len(self.log.read_text().splitlines()) if self.log.exists() else 0
            return bool(ready) or hanging - self.given_up == len(connections)

        wait_until(something)
        if not ready:
            self.now += timeout
            self.given_up += len(connections)
        return ready


def test_a_crash_or_a_hang_costs_only_its_own_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    patience = Patience(tmp_path / "hanging")
    monkeypatch.setattr(parallel, "time", patience)
    monkeypatch.setattr(parallel, "wait", patience.wait)
    common = {"crash": 5, "hang": 9, "hanging": str(patience.log)}
    batches = map_batches("misbehaving:misbehave", common, list(range(16)), batch=4, workers=2)
    results = [result for batch in batches for result in batch]
    assert [index for index, result in enumerate(results) if isinstance(result, Failed)] == [5, 9]
    assert [result for result in results if not isinstance(result, Failed)] == [
        index * 10 for index in range(16) if index not in (5, 9)
    ]
    assert patience.given_up == 2  # with its batch, then alone
    most = 5 * parallel.SECONDS_PER_ITEM + 2 * parallel.SECONDS_TO_START
    assert 5 * parallel.SECONDS_PER_ITEM <= patience.now <= most


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    with pytest.raises(AttributeError):
        list(map_batches("fedgan_secure.data.reading.decode:decode_batch", None, [1, 2, 3], batch=1, workers=2))
