"""The API server of Kubernetes: who asks it, where it is, single requests, and lists that are kept current.

Knows nothing of meshes, so that the agent's source, `meshctl` and the benches use the same client.
"""
