"""What `pip install .` needs beyond setuptools: the BPF object and the libbpf extension. Used at build time
only."""
