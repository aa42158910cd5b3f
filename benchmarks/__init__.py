"""One script per claim: each measures both sides in one run and prints `RATIO <name> <value>` last."""
