"""How XLA compiles the programs of the tests: fast, or as users' programs are where bits are compared."""

import functools
import mmap
import os
from pathlib import Path

import jax
import jaxlib

LEVEL = "xla_backend_optimization_level"
EMITTERS = "xla_cpu_use_fusion_emitters"


def knows(flag: str) -> bool:
    """Whether this XLA has a flag; one that it has not ends the process."""
    for library in Path(jaxlib.__file__).parent.glob("*.so"):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            if text.find(flag.encode()) >= 0:
                return True
    return False


def set_flags() -> None:
    """Leaves out LLVM's optimisations and the emitters of fused loops, unless XLA_FLAGS name a level."""
    given = os.environ.get("XLA_FLAGS", "")
    if LEVEL not in given:
        flags = [given, f"--{LEVEL}=0", *[f"--{EMITTERS}=false"] * knows(EMITTERS)]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()


# Without the emitters, products and sums are contracted in one program and not in another that does the same.
jit_of_same_bits = functools.partial(
    jax.jit, compiler_options={EMITTERS: True} if knows(EMITTERS) else None
)
