"""What was agreed: a run's settings, the policy that all hospitals sign, and the mechanisms it names."""

from fedgan_secure.policy.defaults import LEAST_COHORT, RELEASE_FACTOR, Recipe, adapted_recipe, moments_recipe
from fedgan_secure.policy.mechanisms import (
    cohort_of,
    delta_of,
    hospital_mechanism,
    mechanism_and_ring,
    mechanism_fields,
    recipe_of,
    rounds_of,
    share_noise,
    update_ring,
)
from fedgan_secure.policy.models import model_of, spec_of, training_of
from fedgan_secure.policy.policy import (
    CoordinatorEntry,
    DataPolicy,
    Declaration,
    DistributedMechanismPolicy,
    FederationPolicy,
    Flags,
    HospitalEntry,
    InitialModel,
    MechanismPolicy,
)
from fedgan_secure.policy.release_policy import ReleasePolicy, RingPolicy, StartPolicy
from fedgan_secure.policy.settings import (
    CLAIMS,
    HospitalSettings,
    RunSettings,
    TrainingSection,
    check_hospital_name,
    own_cap,
    read_toml,
)
from fedgan_secure.policy.training import UNITS, TrainingSettings

__all__ = [
    "CLAIMS",
    "LEAST_COHORT",
    "RELEASE_FACTOR",
    "UNITS",
    "CoordinatorEntry",
    "DataPolicy",
    "Declaration",
    "DistributedMechanismPolicy",
    "FederationPolicy",
    "Flags",
    "HospitalEntry",
    "HospitalSettings",
    "InitialModel",
    "MechanismPolicy",
    "Recipe",
    "ReleasePolicy",
    "RingPolicy",
    "RunSettings",
    "StartPolicy",
    "TrainingSection",
    "TrainingSettings",
    "adapted_recipe",
    "check_hospital_name",
    "cohort_of",
    "delta_of",
    "hospital_mechanism",
    "mechanism_and_ring",
    "mechanism_fields",
    "model_of",
    "moments_recipe",
    "own_cap",
    "read_toml",
    "recipe_of",
    "rounds_of",
    "share_noise",
    "spec_of",
    "training_of",
    "update_ring",
]
