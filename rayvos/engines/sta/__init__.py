"""Engine `sta`: windows of boxed frames, a filter solved online, two passes, by an exact fast schedule."""
