"""A run that is asked to stop in the middle, without a process or a signal."""

from experiments.cli import Stopper


class StopsAfter(Stopper):
    """Asks to stop at the n-th look, or falls dead."""

    def __init__(self, looks, dead=False):
        super().__init__()
        self.left = looks
        self.dead = dead

    @property
    def requested(self):
        self.left -= 1
        if self.left < 0 and self.dead:
            raise SystemExit("killed")
        return self.left < 0
