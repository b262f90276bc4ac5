"""What Linux offers to meshd: BPF objects, maps and links, cgroups, namespaces, netlink and sockets. Knows
nothing of meshes."""
