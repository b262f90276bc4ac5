"""The container image of the agent, made from Debian's and Python's packages without a container daemon.

Three layers, each made again only when what it is made from changed: Debian (``debian_root.py``), the Python packages that
meshd needs, and meshd itself (``python_parts.py``). So a new build of meshd moves two megabytes to a node and not all of it.
The image of the mesh's etcd has one layer more (``etcd_part.py``). The same tree and the same packages give the same bytes.

    python -m scripts.image [--output FILE]
"""
