"""The control API: proto/meshd/v1 over a Unix socket, and over TCP with mTLS."""
