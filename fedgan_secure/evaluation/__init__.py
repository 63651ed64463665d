"""Metrics of what the generator makes."""

from fedgan_secure.evaluation.distance import feature_distance
from fedgan_secure.evaluation.images import LabelledImages
from fedgan_secure.evaluation.run_score import EvaluationRequest, evaluate_run
from fedgan_secure.evaluation.scoring import fresh_phantoms, phantom_score
from fedgan_secure.evaluation.tstr import accuracy
from fedgan_secure.evaluation.verdict import flattened, lines

__all__ = [
    "EvaluationRequest",
    "LabelledImages",
    "accuracy",
    "evaluate_run",
    "feature_distance",
    "flattened",
    "fresh_phantoms",
    "lines",
    "phantom_score",
]
