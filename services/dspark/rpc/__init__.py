"""gRPC plumbing: servers, channels, watch streams, the replica's link to the controller.

Everything here moves messages and decides nothing.  No call without a deadline, no queue
without a bound, and a lost peer is retried with back-off, for ever, until told to stop.
"""
