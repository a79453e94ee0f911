"""Command lines: answers before JAX, one line for mistakes, and signals."""

import re
import signal
import subprocess
import sys
import textwrap

import pytest

from experiments import cli
from experiments.config import UserError, config, part, validate
from experiments.config.fields import STUDIES
from experiments.studies.study import study_of

CONFIG = """
from experiments.config import config, part

def get_config(steps="5"):
    return config(
        data=part("synthetic_mnist", batch_size=8), model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3), steps=int(steps), validation=256,
        method=part("gmp", sparsity=0.9, begin=0, end=80, every=10), lottery={"rounds": 3})
"""
BINARY = '''
"""Trains nothing.

Run: python -m binary --config=FILE
"""
import sys, time
from experiments import cli

def main(cfg, options):
    print(cfg.steps, cfg.seeds, cfg.optimizer.to_dict(), cfg.method.sparsity, cfg.lottery.rounds)
    print(options.config_name, options.workdir, options.dry_run, "jax" in sys.modules, flush=True)
    while cfg.steps == 7 and not options.stopper.requested:
        time.sleep(0.01)
    while cfg.steps == 8:
        time.sleep(0.01)
    if cfg.steps == 9:
        raise OSError(28, "No space left on device", "a/file")
    if cfg.steps == 10:
        raise RuntimeError("a fault of ours")
    print("saved")

if __name__ == "__main__":
    cli.run(main, __doc__)
'''


@pytest.fixture
def start(tmp_path, monkeypatch, request):
    """Starts the binary above in a folder with the config above."""
    (tmp_path / "binary.py").write_text(textwrap.dedent(BINARY).strip())
    (tmp_path / "cfg.py").write_text(CONFIG)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{request.config.rootpath}")

    def popen(*arguments, options=()):
        command = [sys.executable, *options, "-m", "binary", *arguments]
        return subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return popen


def outcome(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_overrides_reach_main_before_jax_is_there(start):
    code, out, err = outcome(
        start(
            "--config=cfg.py:6",
            "--config.seeds=3,4",
            "--config.optimizer.b1=0.8",  # an argument that the file leaves out
            "--config.method.sparsity=0.98",
            "--config.lottery.rounds=2",
            "--workdir=elsewhere",
            "--dry_run",
        )
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "6 (3, 4) {'b1': 0.8, 'learning_rate': 0.001, 'name': 'adam'} 0.98 2",
        "cfg elsewhere True False",
        "saved",
    ]


def test_help_imports_no_jax(start):
    code, out, err = outcome(start("--help", options=("-X", "importtime")))
    assert code == 0
    assert out.startswith("Trains nothing.")
    assert "--config=FILE" in out
    assert "--workdir" in out
    imported = re.findall(r"\| +(\S+)$", err, re.MULTILINE)
    assert "experiments.cli" in imported
    assert not {"jax", "flax", "optax", "orbax", "numpy", "jaxprune"} & set(imported)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which config?"),
        (["--config=cgf.py"], "no config file 'cgf.py'"),
        (["--config=cfg.py", "--wrkdir=x"], "no flag 'wrkdir'; nearest: 'workdir'"),
        (["--config=cfg.py", "--config.stps=3"], "no field 'stps'; nearest: 'steps'"),
        (["--config=cfg.py", "--config.steps=x"], "config.steps=x"),
        (["--config=cfg.py", "--config.steps=1.5"], "config.steps=1.5"),
        (["--config=cfg.py", "--config.method.sparsty=.5"], "nearest: 'sparsity'"),
        (["--config=cfg.py", "--config.optimizer.b1=x"], "float is needed"),
        (["--config=cfg.py", "--config.lottery.round=2"], "no field 'round'; nearest: 'rounds'"),
        (["--config=cfg.py", "--config.method.name=gpm"], "no method 'gpm'; nearest: 'gmp'"),
        (["--config=cfg.py", "stray"], "'stray' is no flag"),
        (["--config=cfg.py:five"], "cfg.py:7 fails: ValueError"),
        (["--config=cfg.py:9"], "a/file: No space left on device"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(start, arguments, says):
    code, _, err = outcome(start(*arguments))
    assert code == 2
    assert says in err
    assert err.startswith("binary: ")
    assert err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(start):
    code, _, err = outcome(start("--config=cfg.py:10"))
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_lets_the_run_save(start, number, status):
    process = start("--config=cfg.py:7")
    process.stdout.readline(), process.stdout.readline()  # it is in main
    process.send_signal(number)
    code, out, err = outcome(process)
    assert (code, out) == (status, "saved\n")
    assert "once more stops at once" in err


def test_the_second_signal_ends_it_at_once(start):
    process = start("--config=cfg.py:8")  # polls nothing
    process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    code, out, _ = outcome(process)
    assert (code, out) == (-signal.SIGTERM, "")


@pytest.mark.parametrize("name", [name for name in STUDIES if study_of(name).trains])
def test_a_config_that_prunes_after_training_names_its_binary(name, tmp_path):
    cfg = config(posttrain={"rows": {"a": {"solver": part("sparsegpt")}}})
    validate(cfg)
    options = cli.Options("x", tmp_path, False, cli.Stopper())
    with pytest.raises(UserError, match=r"config\.data is None, .* use experiments\.posttrain\."):
        cli.start(study_of(name), cfg, options)


def test_a_section_that_is_not_ones_own_is_no_mistake(tmp_path):
    cfg = config(
        data=part("synthetic_mnist"),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.1),
        posttrain={"rows": {}},
    )
    validate(cfg)
    ran = []
    study = study_of("train")._replace(run=lambda *_: ran.append(True))
    cli.start(study, cfg, cli.Options("x", tmp_path, False, cli.Stopper()))
    assert ran
