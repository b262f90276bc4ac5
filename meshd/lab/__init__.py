"""Clusters on one machine: nodes and pods as network namespaces, cgroups and real processes; etcd and meshd as they are.

Everything of a lab hangs off its id: one directory below /run, one below /var/lib, one cgroup subtree. So it can be taken
down by whoever knows the id, also when the process that was making it died between any two steps (``down.py``).
"""
