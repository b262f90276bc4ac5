"""The CNI plugin: what a container runtime asks for, through the shim `meshd-cni` (deploy/cni/) and a Unix socket."""
