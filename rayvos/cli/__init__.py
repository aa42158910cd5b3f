"""The command rayvos: one file per command, each parses, calls and prints."""
