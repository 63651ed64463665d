"""Attacks on the protocol by machine: an adversary's view, a network that misbehaves, and a fuzzer of whole sessions.

`python -m tests.protocols.fuzz --help` runs the fuzzer; tests/protocols/test_machine.py runs the network.
"""
