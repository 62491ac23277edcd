"""Chat models: loading, prompts, mixtures, training, decoding and judging. Knows no MLflow."""
