"""Points for annotators to verify: where an object starts from, its probability maps, which points to ask about."""
