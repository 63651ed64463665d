"""What a run can train: a DCGAN, an adapted public start, or Gaussians of moments, behind one protocol."""
