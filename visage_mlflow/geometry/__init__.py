"""Weights as vectors: directions, perturbation, planes and scores. Torch and numpy only."""
