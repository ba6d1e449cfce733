"""The controller: who is in the fleet, what each pool is told, how many replicas are wanted.

The path: ``service`` receives registrations and reports -> ``registry`` keeps what can be
believed -> ``loop`` observes once in a tick, calls the pure ``core.plan``, and publishes ->
``service`` hands the newest budget and fleet to every watcher.  People bound budgets through
``api``; ``policies`` and ``wishes`` keep what they asked for in a ``store``.  Of several
controllers on one store one leads (``leadership``).

What never happens here: a token, a draft or a row passes through, but for what somebody tries
out on the dashboard (``page``); a request waits for us.  Losing this process costs speed, never
output.
"""
