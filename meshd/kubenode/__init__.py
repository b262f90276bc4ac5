"""What this machine is to Kubernetes: its Node, what is said on it, pods of other networks, policies nobody enforces."""
