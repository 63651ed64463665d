"""Planning a privacy budget from Python: the functions behind `fedgan-secure plan`, for notebooks and scripts.

Nothing here reads patients' data or loads TensorFlow. Figures are those of `fedgan_audits.accounting`: proved upper
bounds, for adding or removing one unit. docs/planning.md has a worked example.
"""

from fedgan_secure.planning.hospitals import DropOut, HospitalPlan, drop_outs, for_hospitals
from fedgan_secure.planning.page import write_page
from fedgan_secure.planning.questions import WhatIf, what_if
from fedgan_secure.planning.schedule import UNKNOWNS, Plan, curve, plan

__all__ = [
    "UNKNOWNS",
    "DropOut",
    "HospitalPlan",
    "Plan",
    "WhatIf",
    "curve",
    "drop_outs",
    "for_hospitals",
    "plan",
    "what_if",
    "write_page",
]
