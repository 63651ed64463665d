"""How epsilon depends on the number of hospitals that collude, for noise that is shared and for noise that is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord
from fedgan_audits.errors import RecordInvalid

MOST_ROWS = 128


@dataclass(frozen=True)
class ColluderRow:
    """`epsilon` against the coordinator and `colluders` hospitals together, all on what the others' patients gave.

    noise_multiplier: what the remaining noise amounts to, in sensitivities; declared: whether it is the number of
    colluders that the run was calibrated for.
    """

    colluders: int
    noise_multiplier: float
    epsilon: float
    declared: bool


def against(mechanism: DistributedMechanism, colluders: int) -> DistributedMechanism:
    """The same shares of noise, seen by `colluders` hospitals that know their own: t - colluders shares remain.

    Each share keeps its variance; a sum holds at least t hospitals. Raises RecordInvalid unless 0 <= colluders < t.
    """
    shares = mechanism.shares
    if isinstance(colluders, bool) or not isinstance(colluders, int) or not 0 <= colluders < shares.threshold:
        raise RecordInvalid(f"the number of colluders is {colluders}, but 0 to {shares.threshold - 1} is expected")
    share = (shares.threshold - colluders) / shares.honest_shares
    return mechanism.model_copy(
        update={
            "shares": shares.model_copy(update={"colluders": colluders}),
            "noise_multiplier": mechanism.noise_multiplier * math.sqrt(share),
        }
    )


def table(mechanisms: Sequence[MechanismRecord], delta: float) -> tuple[ColluderRow, ...]:
    """One row for each number of colluders from 0 to t - 1, t being the least threshold; () without shared noise.

    Above MOST_ROWS of them it is the first few, the declared number, the last, and some between.

    Without shared noise every number of colluders has the same epsilon: there is nothing to tabulate. The last row
    is also what is left where secure aggregation itself fails: a hospital's own share still hides its sum. Figures are
    for `mechanisms` together, by accountant.epsilon. Raises as that.
    """
    accountant.refuse_unaccounted(mechanisms)
    shared = [record for record in mechanisms if isinstance(record, DistributedMechanism)]
    if not shared:
        return ()
    rows = []
    least = min(record.shares.threshold for record in shared)
    counts = set(range(least))
    if least > MOST_ROWS:
        counts = {*range(17), *(least * part // 32 for part in range(1, 32)), least - 1}
        counts |= {record.shares.colluders for record in shared if record.shares.colluders < least}
    for count in sorted(counts):
        seen = [against(record, count) if isinstance(record, DistributedMechanism) else record for record in mechanisms]
        weakest = min(record.noise_multiplier for record in seen if isinstance(record, DistributedMechanism))
        declared = all(record.shares.colluders == count for record in shared)
        rows.append(ColluderRow(count, weakest, accountant.epsilon(seen, delta), declared))
    return tuple(rows)
