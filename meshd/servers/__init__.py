"""Who dials us: the control API (gRPC) and /metrics. They write only the mesh; the rest they read through introspection."""
