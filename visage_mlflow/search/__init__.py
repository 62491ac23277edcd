"""The search over data mixtures with Optuna."""
