"""Errors, texts of others and words for the user; and where the project keeps its files."""
