#!/usr/bin/env bash
# Pillow 13.0.0 does not apply the transparency (tRNS) of grey PNG files with 2 or 4 bits a sample.
#
# The chunk names one grey value as transparent, in the range of the bit depth (PNG, third edition, 11.3.1.1: for 2 bits 0 to 3).
# Pillow scales the samples to 0 to 255 when it decodes, and compares the scaled samples with the unscaled value of the chunk. So
# `convert("RGBA")` leaves opaque what the file declares transparent, without a word; with 1 and 8 bits it is transparent.
# Here: four samples 0, 1, 2, 3 of 2 bits, of which 3 is transparent. Expected alpha: 255, 255, 255, 0; seen: 255 four times.
#
# Output seen:
#   pillow 13.0.0
#   2 bits: alpha [255, 255, 255, 255]
#   4 bits: alpha [255, 255, 255, 255]
#   8 bits: alpha [255, 255, 255, 0]
# Exits with 0 while that is so, and with 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv/bin/python" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io, struct, sys, zlib
import PIL
from PIL import Image

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

def alpha(depth, samples, transparent):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">H", transparent))
    file = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + samples)) + chunk(b"IEND", b"")
    return list(Image.open(io.BytesIO(file)).convert("RGBA").tobytes()[3::4])

found = {2: alpha(2, bytes([0b00011011]), 3), 4: alpha(4, bytes([0x05, 0xAF]), 15), 8: alpha(8, bytes([0, 85, 170, 255]), 255)}
print("pillow", PIL.__version__)
for depth, values in found.items():
    print(f"{depth} bits: alpha {values}")
sys.exit(found != {2: [255] * 4, 4: [255] * 4, 8: [255, 255, 255, 0]})
PYTHON
