"""Makes accountants.json: what two libraries that share no code with dp-accounting say of the same schedules.

    python -m venv others && others/bin/python -m pip install --require-hashes --no-deps -r accountants-requirements.txt
    others/bin/python make_accountants.py

prv_accountant (Microsoft, MIT): numerical composition with a stated interval (Gopi, Lee and Wutschitz 2021).
Opacus (Meta, Apache-2.0): its Rényi accountant, read from its file alone, so that PyTorch need not be there.
"""

from __future__ import annotations

import importlib.util
import json
import math
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

SCHEDULES = [
    # sampling probability, noise multiplier, steps, delta
    (0.01, 1.0, 1, 1e-5),
    (0.01, 1.0, 200, 1e-5),
    (0.004, 0.7, 3000, 1e-6),
    (0.05, 0.9, 60, 1e-4),
    (0.05, 2.5, 1000, 1e-6),
    (0.2, 3.0, 250, 1e-5),
    (0.5, 6.0, 100, 1e-5),
    (0.001, 0.6, 10000, 1e-7),
    (0.03, 20.0, 2000, 1e-5),
    (1.0, 5.0, 10, 1e-6),
]
ROUNDS = [
    # several mechanisms composed, at one delta
    ([(0.01, 1.0, 300), (0.05, 2.0, 100), (0.2, 4.0, 20)], 1e-5),
    ([(0.02, 0.8, 100), (0.02, 1.6, 400)], 1e-6),
]


def opacus_rdp() -> Any:
    """Opacus' module of Rényi accounting, without importing the package around it."""
    path = next(file for file in files("opacus") or () if str(file) == "opacus/accountants/analysis/rdp.py")
    spec = importlib.util.spec_from_file_location("opacus_rdp", path.locate())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interval(parts: list[tuple[float, float, int]], delta: float) -> tuple[float, float]:
    """prv_accountant's lower and upper bound on epsilon."""
    from prv_accountant import PRVAccountant
    from prv_accountant.privacy_random_variables import GaussianMechanism, PoissonSubsampledGaussianMechanism

    variables = [
        GaussianMechanism(noise_multiplier=sigma)
        if q == 1
        else PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=sigma)
        for q, sigma, _ in parts
    ]
    steps = [count for _, _, count in parts]
    accountant = PRVAccountant(prvs=variables, max_self_compositions=steps, eps_error=0.01, delta_error=delta / 1000)
    lower, _, upper = accountant.compute_epsilon(delta=delta, num_self_compositions=steps)
    return float(lower), float(upper)


def renyi(module: Any, parts: list[tuple[float, float, int]], delta: float) -> float:
    """Opacus' Rényi epsilon over its usual orders and larger ones."""
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [80, 128, 256, 512, 768]
    curve = sum(module.compute_rdp(q=q, noise_multiplier=z, steps=steps, orders=orders) for q, z, steps in parts)
    epsilon, _ = module.get_privacy_spent(orders=orders, rdp=curve, delta=delta)
    assert math.isfinite(epsilon)
    return float(epsilon)


def main() -> None:
    """Write accountants.json beside this file."""
    module = opacus_rdp()
    rows = []
    for parts, delta in [([(q, sigma, steps)], delta) for q, sigma, steps, delta in SCHEDULES] + ROUNDS:
        lower, upper = interval(parts, delta)
        names = ("sampling_probability", "noise_multiplier", "steps")
        rows.append(
            {
                "mechanisms": [dict(zip(names, part, strict=True)) for part in parts],
                "delta": delta,
                "prv_lower": round(lower, 5),
                "prv_upper": round(upper, 5),
                "opacus_rdp": round(renyi(module, parts, delta), 5),
            }
        )
        print(rows[-1])  # noqa: T201
    libraries = {name: version(name) for name in ("prv-accountant", "opacus", "numpy", "scipy")}
    about = "Poisson-subsampled Gaussian, add or remove one: epsilon at delta. Made by make_accountants.py."
    text = json.dumps({"about": about, "libraries": libraries, "rows": rows}, indent=1)
    (Path(__file__).parent / "accountants.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
