"""Results as HTML pages to explore, which work offline."""
