"""``meshctl clustermesh``: the commands of the package ``clustermesh``, and the same for a cluster of Kubernetes.

There, the directories are Secrets, and the cluster's own etcd may come with it.
"""
