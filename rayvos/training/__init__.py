"""Losses, training sets and loops: networks learn from masks, boxes, points and generated clips, on Ray Train."""
