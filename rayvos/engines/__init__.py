"""Per-clip labelling algorithms: frames and prompts in, labels out; no Ray."""
