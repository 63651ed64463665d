"""Proved bounds on what is lost: mechanisms, accountants, calibration and budgets. No files, no keys."""

from fedgan_audits.accounting import (
    accountant,
    budget,
    calibration,
    colluders,
    failures,
    gaussian_orders,
    integer_noise,
    one_run,
    releases,
    selection,
    solving,
)
from fedgan_audits.accounting.accountant import epsilon, epsilon_several_hospitals
from fedgan_audits.accounting.budget import advised_delta, mechanism_record, plan_run, scheduled
from fedgan_audits.accounting.integer_noise import LEAST_DEVIATION, share_variance
from fedgan_audits.accounting.mechanism import (
    AnyMechanism,
    DistributedMechanism,
    MechanismRecord,
    NoisePlacement,
    NoiseShares,
    SearchMechanism,
    SearchTerms,
    TrialSetting,
    Unit,
    is_release,
    parse_mechanism,
)
from fedgan_audits.accounting.rounding import round_up

__all__ = [
    "LEAST_DEVIATION",
    "AnyMechanism",
    "DistributedMechanism",
    "MechanismRecord",
    "NoisePlacement",
    "NoiseShares",
    "SearchMechanism",
    "SearchTerms",
    "TrialSetting",
    "Unit",
    "accountant",
    "advised_delta",
    "budget",
    "calibration",
    "colluders",
    "epsilon",
    "epsilon_several_hospitals",
    "failures",
    "gaussian_orders",
    "integer_noise",
    "is_release",
    "mechanism_record",
    "one_run",
    "parse_mechanism",
    "plan_run",
    "releases",
    "round_up",
    "scheduled",
    "selection",
    "share_variance",
    "solving",
]
