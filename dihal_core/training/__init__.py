"""Training of bridges: loop, targets, checkpoints, budget, the layer sweep and the final model."""
