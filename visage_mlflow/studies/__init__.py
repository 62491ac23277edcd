"""What is measured of models: evaluations, landscapes, VISAGE, margins, trajectories and finetunings."""
