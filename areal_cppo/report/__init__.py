"""What a run shows its user: the live terminal display and the HTML report.

`live` imports neither matplotlib nor torch; the report modules need matplotlib.
Both read the run folder described in the documentation and nothing else.
"""
