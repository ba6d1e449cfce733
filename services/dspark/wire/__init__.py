"""core <-> protobuf, and tensors on the wire.

``v1`` is generated from ``proto/`` by ``make proto`` and never edited.  Each module converts one
noun both ways, checks what it receives, and decides nothing.
"""
