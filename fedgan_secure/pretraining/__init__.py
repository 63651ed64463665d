"""Train a public start, without privacy, on public pictures: resumable, judged, written with its own figures."""

from fedgan_secure.pretraining.pretraining import PretrainSettings, pretrain, refuse_existing
from fedgan_secure.pretraining.public_set import folder_set, phantom_set

__all__ = [
    "PretrainSettings",
    "folder_set",
    "phantom_set",
    "pretrain",
    "refuse_existing",
]
