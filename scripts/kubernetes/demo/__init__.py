"""`make demo-kubernetes`: the demo of `make demo` on two clusters of real Kubernetes that are joined.

site (scripts/kubernetes) -> joining: etcds, meshd, membership -> load: clients and backends as Deployments -> phases, done
with kubectl and meshctl -> the report, checks and picture of meshd/lab/demo.
"""
