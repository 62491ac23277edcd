"""Data mixtures, supervised finetuning and the checkpoints it leaves. Knows no MLflow."""
