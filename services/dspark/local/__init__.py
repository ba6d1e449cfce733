"""The whole round in one process: the same engines, joined by memory instead of gRPC.

``dspark generate`` runs on it, and so do the tests of the engines.  Nothing here is a second
implementation: only the transport differs.
"""
