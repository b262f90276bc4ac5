"""Mesh -> kernel: one file per feature plans rows, the reconciler writes the difference to what the kernel holds."""
