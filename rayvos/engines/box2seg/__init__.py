"""Engine `box2seg`: a box-guided network on each object's crop, and its sharpening by one mask."""
