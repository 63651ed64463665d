"""The networks and their flat vectors."""

from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.moments_spec import FAMILY, MomentsSpec
from fedgan_secure.models.spec import AnySpec, ModelSpec, read_spec

__all__ = ["FAMILY", "AdaptedSpec", "AnySpec", "ModelError", "ModelSpec", "MomentsSpec", "read_spec"]
