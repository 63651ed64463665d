"""DP-SGD of heads on frozen public features: batches, networks, steps, and sums where noise is shared."""

from fedgan_secure.head_training.head_data import FakeBatches, FakeFeatures, FeatureBatch, FeatureSet
from fedgan_secure.head_training.head_networks import CompiledHeads, compiled_heads
from fedgan_secure.head_training.head_sums import HeadOptimiser, HeadSumTrainer
from fedgan_secure.head_training.head_training import HeadTrainer

__all__ = [
    "CompiledHeads",
    "FakeBatches",
    "FakeFeatures",
    "FeatureBatch",
    "FeatureSet",
    "HeadOptimiser",
    "HeadSumTrainer",
    "HeadTrainer",
    "compiled_heads",
]
