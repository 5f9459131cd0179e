"""The real vLLM on the CPU and its tiny model, as scripts/vllm_env made them."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisord.runtimes.base import VllmOptions

PYTHON_VARIABLE = "LLM_SUPERVISORD_VLLM_PYTHON"  # scripts/test sets both
MODEL_VARIABLE = "LLM_SUPERVISORD_VLLM_MODEL"
START_S = 400.0  # 30 s on two idle cores, 100 s where eight others work too

# Room for 131072 tokens, instead of a share of all the RAM there is.
TINY = VllmOptions(dtype="bfloat16", enforce_eager=True, kv_cache_memory=64 << 20)

_SCRIPT = Path(__file__).parents[2] / "scripts" / "vllm_env"


@dataclass(frozen=True, slots=True)
class RealVllm:
    python: str  # of the environment: what `binary` of a backend may name
    model: str  # the folder


def real_vllm() -> RealVllm:
    """Where it is; skips the test where it is not, and fails it where CI says that everything has to be there."""
    python = os.environ.get(PYTHON_VARIABLE) or _made()
    model = os.environ.get(MODEL_VARIABLE) or f"{python.removesuffix('/bin/python')}/model"
    if python and Path(python).exists() and Path(model).is_dir():
        return RealVllm(python, model)
    missing = "no environment with the real vLLM; scripts/vllm_env makes one"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def _made() -> str:
    done = subprocess.run([_SCRIPT, "--if-made"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()
