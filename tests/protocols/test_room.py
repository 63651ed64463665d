"""The room's own laws: what it imports, where randomness comes from, its keys, its tables and its documents."""

from __future__ import annotations

import ast
import json
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedgan_protocols
from fedgan_protocols import Code, Identity, ParameterError, fingerprint, load_public_key, verify
from fedgan_protocols.transitions import (
    CLIENT_TERMINAL,
    CLIENT_TRANSITIONS,
    SERVER_TERMINAL,
    SERVER_TRANSITIONS,
    ClientPhase,
    ServerPhase,
    Stage,
    diagram,
)

ROOM = Path(fedgan_protocols.__file__).parent
REPOSITORY = Path(__file__).parents[2]
ALLOWED = {"numpy", "cryptography", "cbor2", "fedgan_protocols"}
FORBIDDEN_STANDARD = {"random", "socket", "asyncio", "time", "datetime", "ssl", "http", "urllib", "subprocess"}
FILE_ACCESS = {"journal.py", "keys.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def standard_library() -> set[str]:
    import sys

    return set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_imports_are_the_rooms_own(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top in ALLOWED or top in standard_library(), name
        assert top not in FORBIDDEN_STANDARD, name
        assert not name.startswith(("numpy.random", "tensorflow", "fedgan_audits", "fedgan_secure")), name
        if path.name not in FILE_ACCESS:
            assert top not in {"os", "pathlib", "secrets", "tempfile", "fcntl"}, name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr != "random", f"{path.name}:{node.lineno}"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_every_phase_is_reached_and_none_leads_out_of_the_tables() -> None:
    reached = {ClientPhase.INVITED} | set(CLIENT_TRANSITIONS.values())
    assert reached | {ClientPhase.ABORTED} == set(ClientPhase)
    assert not {phase for phase, _ in CLIENT_TRANSITIONS} & CLIENT_TERMINAL
    targets = {ServerPhase.READY} | {target for targets in SERVER_TRANSITIONS.values() for target in targets}
    assert targets | {ServerPhase.ABORTED} == set(ServerPhase)
    assert not set(SERVER_TRANSITIONS) & SERVER_TERMINAL
    assert [Stage.of(stage.label) for stage in Stage] == list(Stage)


def test_the_diagram_in_the_documents_is_the_tables() -> None:
    text = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{diagram()}```" in text, "put the output of transitions.diagram() into docs/protocol.md"


def test_the_table_of_sparse_graphs_in_the_documents_is_the_codes() -> None:
    from benchmarks.secure_aggregation import graph_table

    text = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
    lines = [line for members in (100, 200, 500) for line in graph_table.rows((members,))]
    assert len(lines) == 12 and all(line in text for line in lines)


def test_the_document_names_every_message_and_code() -> None:
    from fedgan_protocols.messages import BODIES

    text = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
    for body in BODIES.values():
        assert f"`{body.__name__}`" in text, body.__name__
    for code in Code:
        assert f"`{code.value}`" in text, code.value


# --- identities


def test_an_identity_survives_its_file(tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "a.pem"
    identity.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["a.pem"]
    again = Identity.load(path)
    assert again.public_key == identity.public_key == load_public_key(path)
    assert verify(identity.public_key, b"data", again.sign(b"data"))
    public = tmp_path / "a.pub.pem"
    public.write_bytes(identity.public_pem())
    assert load_public_key(public) == identity.public_key
    assert repr(identity) == f"Identity({identity.fingerprint})"
    with pytest.raises(ParameterError, match="not overwritten"):
        Identity.generate().save(path)
    assert Identity.load(path).public_key == identity.public_key
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["a.pem", "a.pub.pem"]


def test_a_fingerprint_is_known() -> None:
    """From `head -c32 /dev/zero | openssl dgst -sha256 -binary | base64`, the padding taken off."""
    assert fingerprint(bytes(32)) == "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"


def test_openssl_reads_the_files(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "a.pem")
    done = subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "a.pem"), "-pubout"], capture_output=True, check=True
    )
    assert done.stdout == identity.public_pem()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        bytes(20_000),
    ],
)
def test_files_that_hold_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (Identity.load, load_public_key):
        with pytest.raises(ParameterError) as caught:
            read(path)
        assert caught.value.exit_code == 2


def test_other_keys_and_open_modes_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    path = tmp_path / "x.pem"
    path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(ParameterError):
        Identity.load(path)
    path.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ParameterError):
        load_public_key(path)
    Identity.generate().save(tmp_path / "open.pem")
    (tmp_path / "open.pem").chmod(0o644)
    with pytest.raises(ParameterError, match="others may read"):
        Identity.load(tmp_path / "open.pem")
    for missing in (tmp_path / "no.pem", tmp_path):
        with pytest.raises(ParameterError):
            Identity.load(missing)
    with pytest.raises(ParameterError):
        Identity.generate().save(tmp_path / "no" / "dir.pem")


# --- the command


def test_keys_new_and_fingerprint(tmp_path: Path) -> None:
    from fedgan_cli.keys import command

    runner = CliRunner()
    made = runner.invoke(command, ["new", "clinic-a", "--output", str(tmp_path / "keys"), "--json"])
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    identity = Identity.load(facts["private_key"])
    assert facts["fingerprint"] == identity.fingerprint and facts["name"] == "clinic-a"
    assert load_public_key(facts["public_key"]) == identity.public_key
    for path in (facts["private_key"], facts["public_key"]):
        shown = runner.invoke(command, ["fingerprint", path])
        assert shown.exit_code == 0 and identity.fingerprint in shown.stdout
        shown = runner.invoke(command, ["fingerprint", path, "--json"])
        assert json.loads(shown.stdout)["fingerprint"] == identity.fingerprint
    again = runner.invoke(command, ["new", "clinic-a", "--output", str(tmp_path / "keys")])
    assert isinstance(again.exception, ParameterError) and again.exception.exit_code == 2
    assert Identity.load(facts["private_key"]).public_key == identity.public_key


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "server", "a b", "-x"])
def test_keys_new_refuses_names_that_are_paths(tmp_path: Path, name: str) -> None:
    from fedgan_cli.keys import command

    done = CliRunner().invoke(command, ["new", "--output", str(tmp_path), "--", name])
    assert done.exit_code == 2 and not list(tmp_path.iterdir())


def test_keys_has_help_with_examples() -> None:
    from fedgan_cli.keys import command

    for arguments in (["--help"], ["new", "--help"], ["fingerprint", "--help"]):
        done = CliRunner().invoke(command, arguments)
        assert done.exit_code == 0 and "Example" in done.output
