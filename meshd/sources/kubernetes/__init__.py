"""What objects of Kubernetes mean to us, wherever they come from, and the source that follows an API server."""
