"""Batched greedy decoding that stops at the verdict. Knows no MLflow."""
