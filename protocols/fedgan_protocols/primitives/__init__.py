"""Keys, shares, graphs, encodings and fixed-point numbers that both machines use."""

from fedgan_protocols.primitives import shamir
from fedgan_protocols.primitives.encoding import (
    Item,
    Packet,
    PacketBuffer,
    decode,
    digest,
    encode,
    join_packet,
    malformed,
    split_packet,
)
from fedgan_protocols.primitives.graph import (
    LEAST_MEMBERS,
    PRIVACY_BITS,
    SparseGraph,
    draw,
    draw_bytes,
    holders,
    privacy_bits,
    signatures_to_check,
)
from fedgan_protocols.primitives.keys import (
    Entropy,
    Identity,
    fingerprint,
    is_safe_public_key,
    load_public_key,
    public_pem,
    verify,
    write_new,
)
from fedgan_protocols.primitives.quantization import FixedPoint, prove_headroom, widest_fraction_bits

__all__ = [
    "LEAST_MEMBERS",
    "PRIVACY_BITS",
    "Entropy",
    "FixedPoint",
    "Identity",
    "Item",
    "Packet",
    "PacketBuffer",
    "SparseGraph",
    "decode",
    "digest",
    "draw",
    "draw_bytes",
    "encode",
    "fingerprint",
    "holders",
    "is_safe_public_key",
    "join_packet",
    "load_public_key",
    "malformed",
    "privacy_bits",
    "prove_headroom",
    "public_pem",
    "shamir",
    "signatures_to_check",
    "split_packet",
    "verify",
    "widest_fraction_bits",
    "write_new",
]
