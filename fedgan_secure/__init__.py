"""Federated DCGAN training under patient-level differential privacy: everything that touches pixels or gradients."""
