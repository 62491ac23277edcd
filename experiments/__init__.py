"""Entry points: one file each. They parse, call a study, and track what it returns."""
