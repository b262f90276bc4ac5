"""docs/reference: every option, metric, drop reason and command, written from the code."""
