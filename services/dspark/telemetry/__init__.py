"""What a running process tells about itself: metrics, traces, logs.

Nothing here decides anything, and nothing here may slow a step down.
"""
