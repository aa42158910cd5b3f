"""Masks by GrabCut, without any weights: engine `cut` from boxes, engine `scribble` from points and traces."""
