"""Stand-ins for what is on the other side of an edge, one per edge."""
