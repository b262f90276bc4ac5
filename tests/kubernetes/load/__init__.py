"""Load on a real cluster of which every single request is accounted for."""
