# ruff: noqa: E501 (a mistake is a line)
"""Mistakes of configs and command lines, a line each: the binary, what is wrong in its flags."""

BASE = {
    "train": "configs/zhu2017/lenet300_mnist_s95.py",
    "compare": "configs/compare/mnist_mlp.py",
    "structured": "configs/structured/lenet5_mnist.py",
    "lottery": "configs/lottery/quickstart.py",
    "sensitivity": "configs/sensitivity/lenet5_mnist.py",
    "branches": "configs/lottery/branches_smoke.py",
    "posttrain": "configs/posttrain/smollm2_quick.py",
}
_DATA = ("--config.data.name=synthetic_mnist", "--config.validation=256")
COMMON = {binary: () if binary == "posttrain" else _DATA for binary in BASE}

# Config files, by name: what they hold. {config} stands for a good call of `config`.
FILES = {
    "exits.py": "import sys\ndef get_config():\n    sys.exit()",
    "exits_at_once.py": "raise SystemExit(0)",
    "has_no_function.py": "x = 3",
    "function_is_none.py": "get_config = 3",
    "no_python.py": "def get_config(:\n",
    "null_bytes.py": "x = 1\0",
    "returns_a_dict.py": "def get_config():\n    return {}",
    "returns_nothing.py": "def get_config():\n    pass",
    "divides_by_zero.py": "def get_config():\n    return 1 / 0",
    "recurses.py": "def get_config():\n    return get_config()",
    "imports_what_is_not_there.py": "import nothing_of_this_name",
    "misspells_a_field.py": "from experiments.config import config\ndef get_config():\n    return config(step=3)",
}

# Each is one mistake: a flag, or several that make it together.
COMMON_MISTAKES = """
--config.stps=3
--config.steps=0
--config.steps=-5
--config.steps=1e20
--config.steps=100000000000000000000
--config.steps=2147483648
--config.steps=1.5
--config.steps=many
--config.steps=
--config.seeds=()
--config.seeds=(-1,)
--config.seeds=(0,0)
--config.seeds=(4294967296,)
--config.seeds=(0,4294967296)
--config.seeds=(18446744073709551616,)
--config.seeds=(100000000000000000000000,)
--config.seeds=(0.5,)
--config.seeds=(a,)
--config.validation=-1
--config.validation=2048
--config.validation=100000000
--config.eval_every=0
--config.save_every=0
--config.log_every=-1
--config.eval_every=2147483648
--config.writers=('cvs',)
--config.writers=('tb',)
--config.writers=csv,wandb
--config.prunable=[
--config.prunable=*
--config.prunable=conv9
--config.ema=1
--config.ema=-0.1
--config.ema=nan
--config.ema=inf
--config.model=None
--config.data=None
--config.optimizer=None
--config.model.name=lenet
--config.model.name=gpt
--config.model.num_classes=3
--config.model.widht=3
--config.data.name=mnits
--config.data.batch_size=0
--config.data.batch_size=-3
--config.data.batch_size=2000
--config.data.batch_size=1.5
--config.data.augment=flip
--config.data.size=3
--config.optimizer.name=adma
--config.optimizer.learning_rate=0
--config.optimizer.learning_rate=-1.0
--config.optimizer.learning_rate=nan
--config.optimizer.learning_rate=inf
--config.optimizer.learning_rate=fast
--config.optimizer.lr=0.1
--config.optimizer.b1=2.0
--config.optimizer.b1=1.0
--config.optimizer.b1=-0.1
--config.optimizer.b2=1.5
--config.optimizer.eps=-1.0
--config.preconditioner.name=adam
--workdir=
--workdir
--wrkdir=x
--config.data.name=mnist --nodry_run=3
--dry_run=maybe
stray
--config=configs/zhu2017/lenet300_mnist_s95.py
--config
--config.
--config.steps.more=3
--config.paper=3
--config.lottery=3
--workdir=/dev/null/runs
--workdir=/dev/null
"""

MISTAKES = {
    "train": """
--config.k_folds=1
--config.k_folds=-2
--config.k_folds=3000
--config.early_stop=-1
--config.method.name=gpm
--config.method.sparsity=1.0
--config.method.sparsity=95
--config.method.sparsity=-0.1
--config.method.sparsity=nan
--config.method.sparsity=high
--config.method.sparsty=0.5
--config.method.begin=-1
--config.method.begin=9000 --config.method.end=8000
--config.method.begin=0.5
--config.method.every=0
--config.method.every=-1
--config.method.end=100000
--config.steps=500
--config.method.pattern=2:4
--config.method.allocation=erk
--config.method.name=rigl --config.method.fraction=2.0
--config.method.name=gmp2
--config.method.name=none --config.method.sparsity=0.5
--config.gate.name=hard_concrete
--config.penalty.name=l1 --config.penalty.strength=1e-4
""",
    "compare": """
--config.prunable=conv9
--config.method.name=gmp
--config.k_folds=3
--config.early_stop=2
--config.compare.sparsity=0.5
--config.compare.sparsities=()
--config.compare.sparsities=(1.0,)
--config.compare.sparsities=(0.0,)
--config.compare.sparsities=(0.5,0.5)
--config.compare.sparsities=(0.5,0.50000000001)
--config.compare.sparsities=(nan,)
--config.compare.controls=('retrain',)
--config.compare.controls=('retrained','retrained')
--config.compare.methods=gmp
--config.compare.criteria=('magnitud',)
--config.compare.criteria=('nowhere.py:mine',)
--config.compare.criteria=('magnitude','magnitude')
--config.compare.strengths=3
""",
    "structured": """
--config.compare.pipeline.when=later
--config.compare.pipeline.rounds=0
--config.compare.pipeline.examples=0
--config.compare.pipeline.exampels=10
--config.compare.pipeline.examples=1000000
--config.compare.pipeline.finetune=-1
--config.compare.pipeline.pattern.only=nothing_is_called_so
--config.compare.pipeline.pattern.name=unstructured
--config.compare.pipeline.pattern.reduce=product
--config.compare.sparsities=(2.0,)
""",
    "lottery": """
--config.method=None
--config.k_folds=3
--config.early_stop=2
--config.prunable=conv9
--config.lottery.round=3
--config.lottery.rounds=-1
--config.lottery.rounds=2.5
--config.lottery.rounds=100000000
--config.lottery.rewind_to=-1
--config.lottery.rewind_to=100000000
--config.lottery.rewind=wieghts
--config.lottery.controls=('reinti',)
--config.lottery.controls=('reinit','reinit')
--config.lottery.repeats=0
--config.lottery.repeats=-1
--config.lottery.repeats=lots
--config.ema=0.9
--config.method.sparsity=1.0
""",
    "sensitivity": """
--config.validation=0
--config.k_folds=3
--config.prunable=conv9
--config.sensitivity.criterion=magnitud
--config.sensitivity.criterion=nowhere.py:mine
--config.sensitivity.criterion=movement
--config.sensitivity.sparsity=0.5
--config.sensitivity.sparsities=()
--config.sensitivity.sparsities=(1.5,)
--config.sensitivity.sparsities=(0.5,0.5)
--config.sensitivity.sparsities=0.5
--config.sensitivity.budget=(0.0,)
--config.sensitivity.budget=(2,)
--config.sensitivity.budget=some
--config.sensitivity.cost=time
--config.sensitivity.tolerance=-1.0
--config.sensitivity.tolerance=2.0
--config.sensitivity.tolerance=nan
--config.sensitivity.examples=0
--config.sensitivity.examples=-5
--config.sensitivity.examples=10000000
--config.sensitivity.examples=all
--config.sensitivity.pattern=2:4
""",
    "branches": """
--config.branches.levels=(99,)
--config.branches.levels=(-1,)
--config.branches.levels=x
--config.branches.copies=0
--config.branches.copies=1000000000000000000
--config.branches.alphas=1
--config.branches.tickets=3
--config.branches.branches=3
--config.branches.copeis=3
--config.lottery.rounds=-1
--config.lottery.rewind_to=100000000
--config.method=None
--config.k_folds=3
""",
    "posttrain": """
--config.posttrain.prunable=[
--config.posttrain.exclude=[
--config.posttrain.exclude=*
--config.posttrain.calibration=0
--config.posttrain.calibration=1000000000000000000000000
--config.posttrain.length=1
--config.posttrain.length=1000000000000
--config.posttrain.batch=3
--config.posttrain.test=1000000000000000000000
--config.posttrain.validation=-1
--config.posttrain.model=smollm
--config.posttrain.model=/nowhere/at/all
--config.posttrain.model=nowhere.py:f
--config.posttrain.model=
--config.posttrain.modle=x
--config.posttrain.rows=3
--config.seeds=(4294967296,)
--config.prunable=layers
--config.steps=3
--config.validation=7
--config.k_folds=3
--config.ema=0.5
--config.data.name=mnist
--config.method.name=gmp
""",
}

# Configs in Python: a binary, and keyword arguments of `config` that are wrong.
WRITTEN = [
    ("lottery", "method=part('gmp', sparsity=0.5, begin=0, end=10, every=2)"),
    ("lottery", "method=part('magnitude', sparsity=0.5, pattern=part('groups', m=3))"),
    ("lottery", "method=part('magnitude', sparsity=0.9, pattern=part('groups', m=4))"),
    ("lottery", "method=part('movement', sparsity=0.5, begin=0, end=10, every=2)"),
    ("lottery", "method=part('sr_ste', sparsity=0.5, end=10)"),
    (
        "lottery",
        "method=part('magnitude', sparsity=0.5, allocation=part('uniform', rates={'no_such': 0.5}))",
    ),
    ("lottery", "method=part('rigl', sparsity=0.5, every=2, end=10)"),
    ("lottery", "method=part('set_', sparsity=0.5, every=2, end=10)"),
    ("lottery", "gate=part('hard_concrete', strength=1e-4)"),
    ("train", "method=part('magnitude', sparsity=0.5, pattern=part('groups', m=3))"),
    ("train", "method=part('magnitude', sparsity=0.5, pattern=part('groups', m=0))"),
    ("train", "method=part('magnitude', sparsity=0.5, pattern=part('block', shape=(3, 5)))"),
    (
        "train",
        "method=part('magnitude', sparsity=0.5, allocation=part('by_path', sparsities={'fc9': 0.5}))",
    ),
    (
        "train",
        "method=part('magnitude', sparsity=0.5, allocation=part('by_path', sparsities={'fc1': 1.5}))",
    ),
    ("train", "method=part('partition', methods={})"),
    ("train", "method='gmp'"),
    ("train", "model='lenet_300_100'"),
    ("train", "model=part('vit', width=10, heads=3)"),
    ("train", "model=part('vit', patch=0)"),
    (
        "train",
        "optimizer=part('adam', learning_rate=part('cosine_decay_schedule', init_value=1e-3, decay_steps=0))",
    ),
    (
        "train",
        "optimizer=part('adam', learning_rate=part('exponential_decay', init_value=1e-3, transition_steps=9, decay_rate=-1.0))",
    ),
    ("train", "optimizer=part('adam', learning_rate=part('constant_schedule', value=-1e-3))"),
    ("train", "optimizer=part('adam')"),
    ("train", "optimizer=part('sgd', learning_rate=0.1, momentum=1.0)"),
    ("train", "optimizer=part('rmsprop', learning_rate=0.1, decay=1.5)"),
    ("train", "optimizer=part('adamw', learning_rate=0.1, weight_decay=-0.1)"),
    ("train", "optimizer=part('prodigy', betas=(0.9, 1.0))"),
    ("compare", "compare={'criteria': 'magnitude', 'pipeline': {'when': 'initialisation'}}"),
    ("compare", "compare={'methods': {'A': part('static')}, 'controls': 'retrained'}"),
    (
        "structured",
        "compare={'criteria': ('l2',), 'pipeline': {'when': 'trained', 'finetune': 9, 'pattern': part('coupled', only='no_such')}}",
    ),
    (
        "structured",
        "compare={'criteria': ('l2',), 'pipeline': {'when': 'trained', 'finetune': 9, 'pattern': part('unstructured')}}",
    ),
    (
        "structured",
        "compare={'criteria': ('l2',), 'pipeline': {'when': 'trained', 'finetune': 9, 'pattern': part('coupled', reduce='product')}}",
    ),
    ("structured", "compare={'criteria': ('l2',), 'pipeline': {'when': 'trained', 'rounds': 0}}"),
    (
        "structured",
        "compare={'criteria': ('l2',), 'pipeline': {'when': 'trained', 'finetune': 9, 'examples': 10**7}}",
    ),
    ("train", "penalty=part('l1', strength=-1.0)"),
    ("train", "penalty=part('l1', strength=1e-4), ema=0.9"),
    ("train", "penalty=part('l1', strength=1e-4), early_stop=2"),
    ("train", "gate=part('soft_movement', strength=1e-4, end=10**6)"),
    ("train", "data=part('synthetic_mnist', batch_size=128, augment='crop')"),
    ("compare", "compare={'methods': {'done': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'lock': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'Holder': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'criteria': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'dense': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'a/b': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'..': part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'x' * 300: part('gmp', begin=0, end=9, every=3)}}"),
    ("compare", "compare={'methods': {'A': part('static'), 'a': part('static')}}"),
    (
        "compare",
        "compare={'methods': {'A': part('static'), 'A, reinit': part('static')}, 'controls': ('reinit',)}",
    ),
    ("compare", "compare={'methods': {'A': part('static', sparsity=0.5)}}"),
    ("compare", "compare={'methods': {'A': part('gmp', begin=0, end=10**6, every=3)}}"),
    ("compare", "compare={'methods': {'A': 'static'}}"),
    ("compare", "compare={'criteria': ('magnitude',)}"),
    (
        "compare",
        "compare={'criteria': ('snip',), 'pipeline': {'when': 'initialisation', 'pattern': part('groups', m=3)}}",
    ),
    (
        "compare",
        "compare={'criteria': ('magnitude',), 'pipeline': {'when': 'trained', 'finetune': 9, 'pattern': part('groups', m=3)}}",
    ),
    ("compare", "compare={'criteria': ('momentum',), 'pipeline': {'when': 'initialisation'}}"),
    (
        "compare",
        "compare={'criteria': ('magnitude',), 'pipeline': {'when': 'trained', 'of': 'nobody'}}",
    ),
    ("compare", "compare={'gates': {'L0': part('hard_concrete')}}"),
    ("compare", "compare={'gates': {'L0': part('hard_concrete')}, 'strengths': {'L0': (-1.0,)}}"),
    (
        "compare",
        "compare={'gates': {'L0': part('hard_concrete')}, 'strengths': {'L0': (1e-4, 1.00000001e-4)}}",
    ),
    ("compare", "compare={'penalties': {'L1': part('l1')}, 'strengths': {'L2': (1e-4,)}}"),
    ("train", "optimizer=part('adam', learning_rate=10**400)"),
    ("train", "paper={'citation': object()}"),
    ("train", "paper={'accept': 3}"),
    ("train", "paper={'accept': [3]}"),
    ("train", "paper={'accept': [{'name': 'all', 'kind': 'at_lest', 'value': 0.9}]}"),
    ("train", "paper={'accept': [{'name': 'all', 'kind': 'at_least'}]}"),
    ("train", "paper={'accept': [{'name': 'all', 'kind': 'at_least', 'value': '90 %'}]}"),
    *(
        ("posttrain", f"posttrain={{'rows': {{'a': {{'solver': part('sparsegpt'), {row}}}}}}}")
        for row in (
            "'rates': {'[': 0.5}",
            "'rates': {'layers': 2.0}",
            "'rates': {'layers': 'half'}",
            "'rates': {}",
            "'rates': 1.0",
            "'rates': (0.5,)",
            "'pattern': '2:4'",
            "'propagate': 2.0",
        )
    ),
    ("posttrain", "posttrain={'rows': {'a': {}}}"),
    ("posttrain", "posttrain={'rows': {'a': {'solver': 'sparsegpt'}}}"),
    ("posttrain", "posttrain={'rows': {'Dense': {'solver': part('sparsegpt')}}}"),
    ("posttrain", "posttrain={'rows': {l: {'solver': part('sparsegpt')} for l in 'aA'}}"),
    ("sensitivity", "sensitivity={'pattern': part('groups', m=3)}"),
    ("sensitivity", "sensitivity={'pattern': part('coupled')}"),
    ("sensitivity", "sensitivity={'criterion': part('wanda', powr=2)}"),
    ("sensitivity", "sensitivity={'criterion': part('wanda'), 'examples': 0}"),
]

# What looks odd and is right: it must not be refused.
RIGHT = {
    "train": ["--config.seeds=0", "--config.method.sparsity=0.5", "--config.steps=20000"],
    "lottery": [
        *("--config.lottery.rounds=0", "--config.seeds=(4294967295,)"),
        "--config.lottery.controls=reinit",  # one name is a tuple of one
    ],
    "compare": ["--config.compare.sparsities=0.5"],
    "structured": ["--config.compare.sparsities=(0.3,)"],
    "sensitivity": ["--config.sensitivity.tolerance=0.0", "--config.sensitivity.examples=1"],
    "branches": ["--config.branches.levels=1"],
}
