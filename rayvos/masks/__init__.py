"""Masks, boxes, points and boundaries: arrays in, arrays out."""
