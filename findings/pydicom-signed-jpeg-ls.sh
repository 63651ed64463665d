#!/usr/bin/env bash
# pydicom 3.0.2 reads a signed JPEG-LS picture with `pixel_array`, and refuses the same data set in `iter_pixels` and
# `Dataset.decompress` where its plugin for GDCM decodes (python-gdcm 3.2.2).
#
# A frame of fewer bits than its cell, with a sign, is corrected in place. The plugin gives bytes, and an array over bytes cannot be
# written; `pixel_array` copies first, the other two do not. They raise "ValueError: output array is read-only".
# Here: 64 x 64 values from -2048 to 2047, BitsStored 12 of 16, encoded by pydicom itself with pyjpegls 1.4.0.
#
# Output seen:
#   pydicom 3.0.2, python-gdcm 3.2.2
#   pixel_array: equal
#   iter_pixels: ValueError: output array is read-only
#   decompress: ValueError: output array is read-only
# Exits with 0 while that is so, and with 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv/bin/python" install --quiet --disable-pip-version-check \
  pydicom==3.0.2 python-gdcm==3.2.2 pyjpegls==1.4.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import iter_pixels, pixel_array
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

values = numpy.arange(-2048, 2048, dtype=numpy.int16).reshape(64, 64)
dataset = Dataset()
dataset.file_meta = FileMetaDataset()
dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
dataset.Rows = dataset.Columns = 64
dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
dataset.PixelData = values.tobytes()
dataset["PixelData"].VR = "OW"
dataset.compress(JPEGLSLossless)

def decompressed():
    dataset.decompress(decoding_plugin="gdcm")
    return dataset.pixel_array

print(f"pydicom {version('pydicom')}, python-gdcm {version('python-gdcm')}")
found = {}
for name, read in (
    ("pixel_array", lambda: pixel_array(dataset, decoding_plugin="gdcm")),
    ("iter_pixels", lambda: next(iter_pixels(dataset, decoding_plugin="gdcm"))),
    ("decompress", decompressed),
):
    try:
        found[name] = "equal" if numpy.array_equal(read(), values) else "different"
    except ValueError as error:
        found[name] = f"ValueError: {error}"
    print(f"{name}: {found[name]}")
refused = "ValueError: output array is read-only"
sys.exit(found != {"pixel_array": "equal", "iter_pixels": refused, "decompress": refused})
PYTHON
