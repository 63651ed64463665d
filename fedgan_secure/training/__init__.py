"""DP-SGD of a DCGAN at one hospital: batches, steps, and sums where noise is shared."""

from fedgan_secure.training.batches import PAD, Batch
from fedgan_secure.training.distributed_training import SharedOptimiser, SumTrainer
from fedgan_secure.training.training import CompiledNetworks, LocalResult, LocalTrainer, TrainingStateError

__all__ = [
    "PAD",
    "Batch",
    "CompiledNetworks",
    "LocalResult",
    "LocalTrainer",
    "SharedOptimiser",
    "SumTrainer",
    "TrainingStateError",
]
