"""Sweeps on Ray Tune: which tau, how many frames and how many points are worth an annotator's time."""
