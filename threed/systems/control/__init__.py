"""Control: what is where, by maps, regions, or attention."""
