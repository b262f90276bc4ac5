"""``meshctl kube``: meshd on a Kubernetes cluster, from whoever may administer it: looked at first, applied, waited for.

Nothing here asks an agent: all that it knows and does goes through the API server.
"""
