"""meshctl: a client of the control API. It imports nothing of the agent but api/, and gRPC only once it is needed."""
