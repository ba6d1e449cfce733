"""A running system on this machine: its processes, their order of start and stop, its record.

``up`` is a supervisor: controller first, then Ray with the pools, then the gateway; it restarts
what dies, with back-off, and ends everything it started.  Children are exec'ed, never forked, in
sessions of their own, so that a Ctrl-C reaches the supervisor alone and the order of the stop is
ours.  Nothing here imports ray, grpc or torch.
"""
