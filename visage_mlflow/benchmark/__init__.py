"""What a landscape costs on this machine, beside the published procedure and plain `generate`."""
