"""What the agent tells others of its own work: traces."""
