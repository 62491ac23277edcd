"""Chat models: loading, prompts, tokens, judges and likelihood. Knows no MLflow."""
