"""Kubernetes clusters on this machine, of Kubernetes' own programs: for the tests, and for whoever wants to look at one.

    python -m scripts.kubernetes up NAME | kubectl NAME ... | env NAME | down NAME

The programs are built from what their authors publish (``components.py``); what a node is made of, says ``node.py``.
"""
