"""Engines `stcn` and `point-stcn`: masks or points of some frames, propagated to all by a memory network."""
