"""Ray Data graphs: manifest, units, actors, committed tables."""
