"""What we dial or read: each source turns what it finds into model values and writes them to the Mesh."""
