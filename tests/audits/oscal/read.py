"""Reads a file as OSCAL assessment results with compliance-trestle, in an environment that has nothing else.

Run by `test_oscal.py`; prints how many observations were read. Exit code 1 and the reason where the file does not fit.
"""

from __future__ import annotations

import pathlib
import sys

from trestle.oscal.assessment_results import AssessmentResults

read = AssessmentResults.oscal_read(pathlib.Path(sys.argv[1]))
if read is None:
    raise SystemExit("no such file")
print(len(read.results[0].observations))  # noqa: T201
