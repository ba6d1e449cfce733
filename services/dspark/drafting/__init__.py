"""The verifier's side of drafting: who drafts which session, what was sent, what may be used.

Path of a round: the engine asks the ``desk``; the desk stamps the question and hands it to a
``port`` (gRPC ``links``, or ``memory``); answers come back as ``events`` through the engine's own
inbox, pass the ``fences``, and wait at the desk until the engine takes them.  There is no step
loop here and nothing blocks: another engine can drive it.  A draft that is late, lost or stale
costs speed only.
"""
