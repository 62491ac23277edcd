"""Whether safety survives finetuning: landscapes, VISAGE, mixtures and trajectories of chat models."""
