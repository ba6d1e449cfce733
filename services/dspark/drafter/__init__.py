"""The drafter pool: context rows in, draft blocks out.

``service`` receives rounds and seeds, ``engine`` batches every waiting session into one block
forward on a thread of its own, ``replica`` is the process around both.  Nothing here knows a
target, a budget or a client; everything here can be lost without a token changing.
"""
