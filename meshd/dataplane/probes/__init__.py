"""Whether other nodes answer: whom to ask, what silence means, and telling the mesh."""
