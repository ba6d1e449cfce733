"""Models: the target, the drafter, their checkpoints and the checks made when they load."""
