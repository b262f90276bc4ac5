"""`meshctl lab demo`: two clusters, one global service, eight phases, a report.

phases (what is done) -> requests (what the clients saw) -> checks (what must have been seen) -> report, table, timeline.
Everything but ``phases`` and ``run`` is pure: it can be tried on requests that were written by hand.
"""
