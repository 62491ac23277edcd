"""Results drawn with matplotlib; nothing is computed here."""
