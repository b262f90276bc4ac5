"""BPF programs that only tests use, compiled and run by the kernel."""
