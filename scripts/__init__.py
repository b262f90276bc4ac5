"""What make runs: set-up, preflight and checks. Standard library only, because set-up runs before anything is installed."""
