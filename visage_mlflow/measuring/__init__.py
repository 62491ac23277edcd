"""The one door to model and store: a model held somewhere in weight space, asked and judged once."""
