"""Faults in a lab of three clusters, each with its right outcome fixed before it is injected.

kinds.py        what can be done to a lab      -> Effect: what of it is silent or dead then, by the fault's own plan
expected.py     Effect -> Expected: who must be left, who must not, whose lost requests nobody could have saved   (pure)
ground.py       the lab with its clients, the diallers (``dialler.py``), and what agents log
run.py          inject -> wait for the switch -> heal -> settled, one after the other
verdict.py      what clients, diallers and agents wrote down against Expected                                  (pure)
report.py       lost requests, wrong failovers, times as distributions
"""
