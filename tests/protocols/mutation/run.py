"""Mutation testing of the protocol's core with mutmut; see docs/mutation.md for how to run it and what it found.

Works on a copy outside the repository. Each mutant meets the tests that reach its function, fastest first, in a
forked process. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from staging import MODULES, REPOSITORY, stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to work; outside the repository")
    parser.add_argument("--share", type=float, default=0.1, help="how much of the `argument` kind to sample")
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--longest", type=float, default=0.3, help="seconds; slower tests are not run against mutants")
    parser.add_argument("--again", action="store_true", help="test those that survived the last run")
    parser.add_argument("--only", nargs="*", choices=MODULES, default=MODULES, help="modules to test")
    parser.add_argument("--functions", nargs="*", default=[], help="functions to test, rather than all")
    parser.add_argument("--report", action="store_true", help="test nothing: print what there is, as JSON")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.is_relative_to(REPOSITORY):
        parser.error(f"{folder} lies in the repository; give a folder outside it")
    if not options.report:
        stage(folder)
    os.chdir(folder)
    import catalogue

    made = catalogue.catalogue(folder)
    wanted = catalogue.chosen(made, options.share, options.seed)
    status = catalogue.verdicts()
    if options.report:
        sys.stdout.write(json.dumps(catalogue.report(wanted, status, made), indent=1) + "\n")
        return
    due = ("survived", "no tests") if options.again else ("not checked",)
    wanted = [m for m in wanted if m.module in options.only and m.function in (options.functions or [m.function])]
    names = [m.name for m in wanted if status.get(m.name, "not checked") in due]
    if names:
        catalogue.test(names, options.workers, options.longest)


if __name__ == "__main__":
    main()
