"""What methods share to be fitted: the training loop, its state and checkpoints, folds, spots and their context."""
