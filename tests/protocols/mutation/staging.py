"""The copy that mutants are made and tested in: the package and its tests, staged outside the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PACKAGE = "fedgan_protocols"
MODULES = ("masking", "shamir", "client", "client_setup", "client_rules", "server", "unmasking")
LEFT_OUT = (
    "test_machine.py",
    "test_room.py",
    "test_graph.py",
    "test_quantization.py",
    "test_collusion.py",
    "test_journal.py",
    "test_sparse_luck.py",
    "test_fuzz.py",
)
"""Not run: the random machine (minutes), tests that read the sources themselves, and those of other modules."""
DESELECTED = (
    "test_sums.py::test_every_pattern_of_up_to_two_dropouts_at_every_stage_n7_t5",
    "test_sums.py::test_any_size_ring_and_dropouts_that_leave_t",
    "test_lying_replay.py::test_flipping_any_bit_of_any_message_is_refused",
    "test_transcript.py::test_one_flipped_bit_fails",
    "test_encoding.py::test_correctly_signed_nonsense",
    "test_encoding.py::test_changed_encodings_are_refused_or_mean_something_else",
    "test_encoding.py::test_values_survive",
    "test_encoding.py::test_messages_packets_and_transcripts_from_noise",
    "test_sparse.py::test_the_sum_is_exact_and_the_transcript_checks",
    "test_sparse.py::test_drop_outs_at_every_stage",
    "test_sparse.py::test_a_flipped_bit_is_refused",
    "test_sparse.py::test_a_round_ends_as_its_graph_says",
    "test_sparse_unmasking.py::test_a_victim_whose_neighbours_collude",
    "test_sparse_unmasking.py::test_all_peers_of_a_victim_declared_dead",
    "test_sparse_unmasking.py::test_invented_signatures_are_caught_whatever_is_drawn",
    *(f"test_sparse.py::test_drop_outs_at_all_stages_of_two_sums[{seed}" for seed in range(1, 10)),
    "test_building_blocks.py::test_lagrange_weights_are_cached",
)
"""Slow tests, without which the score is a lower bound, and one about the decorator `CACHE`."""
CACHE = "@lru_cache(maxsize=512)\n"
"""mutmut does not mutate a decorated function; `lagrange_at_zero` is the same without its cache."""
PYPROJECT = """\
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = "-q --import-mode=importlib -p no:cacheprovider --hypothesis-seed=0"
markers = ["slow: long runs"]

[tool.mutmut]
source_paths = ["fedgan_protocols"]
only_mutate = {only}
pytest_add_cli_args = {options}
pytest_add_cli_args_test_selection = ["tests/protocols"]
track_dependencies = false
use_git_change_detection = false
use_setproctitle = false
timeout_constant = 5.0
timeout_multiplier = 3.0
"""


def stage(folder: Path) -> None:
    """Copy the package and the tests, fresh, into `folder`; results of an earlier run stay while sources do."""
    package = REPOSITORY / "protocols" / PACKAGE
    (folder / PACKAGE).mkdir(parents=True, exist_ok=True)
    for source in sorted(package.glob("*.py")):
        text = source.read_text(encoding="utf-8")
        if source.stem == "shamir":
            text = text.replace(CACHE, "")
        staged = folder / PACKAGE / source.name
        if not staged.exists() or staged.read_text(encoding="utf-8") != text:
            staged.write_text(text, encoding="utf-8")
    for tests in (folder / "tests", folder / "mutants" / "tests"):
        shutil.rmtree(tests, ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "mutation", "fuzz")
    shutil.copytree(REPOSITORY / "tests" / "protocols", folder / "tests" / "protocols", ignore=leave)
    shutil.copytree(REPOSITORY / "tests" / "vectors", folder / "tests" / "vectors", ignore=leave)
    shutil.copy2(REPOSITORY / "tests" / "__init__.py", folder / "tests" / "__init__.py")
    options = [f"--ignore=tests/protocols/{name}" for name in LEFT_OUT]
    options += [f"--deselect=tests/protocols/{test}" for test in DESELECTED]
    only = [f"{PACKAGE}/{module}.py" for module in MODULES]
    settings = PYPROJECT.format(only=json.dumps(only), options=json.dumps(options))
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
