"""What decides whether a test run may be believed: nothing left out unnoticed, nothing left behind."""
