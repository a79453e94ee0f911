"""Progress: lines now and then where nobody watches, a bar on a terminal."""

import io

from experiments.runs.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_plain_lines_come_now_and_then_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, "seed 0", stream=stream, clock=clock) as progress:
        for step in range(0, 601, 10):
            clock.now = step / 10  # ten steps a second
            progress.update(step, f"seed 0 · level {step // 300}", loss=1 / 3, step_size=step)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6  # 60 seconds
    assert lines[0] == (
        "seed 0 · level 0   10 %  100/1000  0:10, 1:30 left  loss 0.3333  step_size 100"
    )
    assert lines[-1].startswith("seed 0 · level 2   60 %  600/1000  1:00, 0:40 left")


def test_the_last_state_is_shown():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, stream=stream, clock=clock) as progress:
        clock.now = 4000.0
        progress.update(50)
        clock.now = 4001.0
        progress.update(100, accuracy=0.98)
    assert stream.getvalue().splitlines() == [
        " 50 %  50/100  1:06:40, 1:06:40 left",
        "100 %  100/100  1:06:41, 0:00 left  accuracy 0.98",
    ]


def test_a_resumed_run_estimates_from_what_it_did_itself():
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, start=900, stream=stream, clock=clock) as progress:
        clock.now = 20.0
        progress.update(950)
    assert "950/1000  0:20, 0:20 left" in stream.getvalue()


def test_trainings_without_updates_count_as_much_as_others():
    clock, stream = Clock(), io.StringIO()
    with Progress(4, stream=stream, clock=clock) as progress:
        clock.now = 10.0
        progress.part(0, 200).update(100, "dense")  # half of the first of four
        clock.now = 60.0
        progress.part(2, 0).update(0, "pruned at once")  # takes long and has no updates
    assert stream.getvalue().splitlines() == [
        "dense   12 %  0/4  0:10, 1:10 left",
        "pruned at once   50 %  2/4  1:00, 1:00 left",
    ]


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock, stream = Clock(), Terminal()
    with Progress(100, "seed 0", stream=stream, clock=clock) as progress:
        clock.now = 1.0
        progress.update(50, "seed 0 · ticket", accuracy=0.98123)
        clock.now = 2.0
        progress.update(100)
    shown = stream.getvalue()
    assert "seed 0 · ticket" in shown
    assert "accuracy 0.9812" in shown
    assert "100%" in shown
