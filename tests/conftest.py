"""How hypothesis searches: without deadlines, since no test is a timing; in CI the same examples every time.

A search that is different each time belongs on a developer's machine and in the fuzzer: in CI a failure must be the
change's own.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("suite"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("FEDGAN_CI") else "suite")
