"""The control API: HTTP and JSON for the people and programs that run the service.

The path: ``app`` authenticates and routes -> ``asks`` refuses nonsense -> the controller decides
-> ``view`` turns what it knows into ``answers``.  ``openapi`` documents all of it from the same
tables.  ``trend`` remembers the last minutes, ``try_out`` sends a short request on to the gateway.
What never happens here: a decision, or a wait for anything but the store and that gateway.
"""
