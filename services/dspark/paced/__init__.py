"""Paced engines: the whole system at another device's ratios, on a laptop.

Step times are slept from recorded paces; tokens come from an integer fake.  Everything else is the
real thing: sessions, pages, rows, rounds, budgets, gRPC.  Results are labelled "paced" and are
never called speed.
"""
