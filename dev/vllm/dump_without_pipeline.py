#!/usr/bin/env python3
"""Writes the architectures that vLLM 0.33.0 refuses to split into pipeline stages to a JSON file.

Usage: "$(dev/vllm/prepare.sh)" dev/vllm/dump_without_pipeline.py [core/data/vllm-0.33.0-without-pipeline.json]

The file is a sorted JSON array, one name a line, of `architectures` of a config.json. Each class of vLLM's registry is
imported and asked with vLLM's own `supports_pp`, which is what `--pipeline-parallel-size` above 1 is checked against.
Classes that cannot be imported here (their module wants a library that has nothing to do with the question) are named
on standard error and are not in the file: of them nothing is claimed.
"""

import importlib
import json
import os
import pathlib
import sys

os.environ.update(VLLM_TARGET_DEVICE="cpu", VLLM_NO_USAGE_STATS="1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")

from vllm.model_executor.models import registry  # noqa: E402
from vllm.model_executor.models.interfaces import supports_pp  # noqa: E402
from vllm.version import __version__  # noqa: E402

EXPECTED_VERSION = "0.33.0"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def main() -> None:
    if __version__ != EXPECTED_VERSION:
        sys.exit(f"this is vLLM {__version__}, and the file is named after {EXPECTED_VERSION}")
    default = REPOSITORY / "core" / "data" / f"vllm-{EXPECTED_VERSION}-without-pipeline.json"
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    without = []
    for architecture, (module, name) in registry._VLLM_MODELS.items():
        if not module.startswith("vllm."):
            module = f"vllm.model_executor.models.{module}"
        try:
            model = getattr(importlib.import_module(module), name)
        except ImportError as error:
            print(f"{architecture}: {error}", file=sys.stderr)
            continue
        if not supports_pp(model):
            without.append(architecture)
    path.write_text("[\n" + ",\n".join(f"  {json.dumps(name)}" for name in sorted(without)) + "\n]\n")


main()
