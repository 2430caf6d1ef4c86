"""Which unlabelled scans a person should label next."""
