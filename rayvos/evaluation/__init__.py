"""Metrics and benchmark protocols, identical to the official tools."""
