"""Train, calibrate and evaluate a small target and its DSpark drafter.

The path: ``corpus`` (text of this machine's Python, and worked arithmetic) -> ``tokenizer`` ->
``target`` (a Hugging Face causal language model) -> ``generation`` (text of the target's own) ->
``drafter`` (the DSpark network on the target's features) -> ``calibration`` -> ``evaluation``.
Every stage is a function of a settings dataclass, writes into one work folder, and resumes from
what it finds there. Nothing here serves traffic.
"""
