"""What people look at: exports, overlays, contact sheets and the quality report."""
