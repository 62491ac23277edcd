"""What is kept and shown: results, figures, and the tracking server."""
