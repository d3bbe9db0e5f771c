#!/usr/bin/env python3
"""Runs command lines of `vllm serve` through vLLM 0.33.0's own parser and configuration classes, without a GPU.

Usage: "$(dev/vllm/prepare.sh)" dev/vllm/check_commands.py [FILE]      (standard input without FILE)

Input, a JSON array:

  {"name": "...", "model_config": {config.json of the model}, "args": ["serve", "MODEL", "--flag", ...],
   "expect": "accepted" | "refused", "gpu": {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "count": 8}}

`gpu` is what one node has, and may be left out (then as shown). It decides whether TP x PP fits the node and the
defaults of --max-num-seqs and --max-num-batched-tokens.

Output, one JSON object a line: {"name", "stage", "outcome", "message"}. The stages, in the order in which
`vllm serve` passes them: "parser" (argparse), "validate" (validate_parsed_serve_args), "config"
(create_engine_config). `stage` is the one that refused, or "config" when all accepted. An accepted line carries
`resolved`, what vLLM made of the values that sizing cares about. Exit code: 0 if every outcome is the expected one,
1 if any differs, 2 if the input cannot be read.

What is done so that a machine without a GPU can answer, and no more:

* MODEL is replaced by a directory that holds only config.json, and --skip-tokenizer-init is added: nothing is
  downloaded, and vLLM is told that there is no network. A model_config with `auto_map` needs code that is not there;
  leave it out.
* VLLM_TARGET_DEVICE=cpu selects vLLM's CPU platform. Where the configuration asks the platform for something that a
  CPU has not, a stand-in (class Gpu) answers as CUDA does on a node with `gpu`: in config/parallel.py (number of
  GPUs against the world size, expert load balancing, nodes), in EngineArgs.get_batch_defaults (name and memory) and
  for sleep mode. vLLM's own code decides in all three; every other question goes to the CPU platform.
* Reasoning parsers are looked up by name, but not asked for their tokens, as there is no tokenizer.

So an answer can still differ from that of a GPU: what CudaPlatform.check_and_update_config does to the compilation
and attention back end, and what depends on the compute capability, is not run. With multi-head latent attention the
CPU platform turns chunked prefill off and raises max_num_batched_tokens to max_model_len in `resolved`.

Not checked at this stage, by vLLM either: KV heads, FP8 blocks, quantisation groups, the vision tower, memory, names
of --load-format. They fail in the worker, on the GPU.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import warnings
from unittest import mock

os.environ.update(
    VLLM_TARGET_DEVICE="cpu",
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
    # vLLM remembers there what it learned of an architecture, which takes it ten seconds the first time.
    VLLM_CACHE_ROOT=os.path.join(sys.prefix, "cache"),
)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
warnings.simplefilter("ignore")

from vllm.config import parallel, reasoning  # noqa: E402
from vllm.engine import arg_utils  # noqa: E402
from vllm.entrypoints.cli.serve import ServeSubcommand  # noqa: E402
from vllm.entrypoints.common.cli_args import validate_parsed_serve_args  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.usage.usage_lib import UsageContext  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402
from vllm.version import __version__  # noqa: E402

EXPECTED_VERSION = "0.33.0"
DEFAULT_GPU = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "count": 8}


class Gpu:
    """Answers for a CUDA node with these GPUs; what it does not know it asks the CPU platform."""

    def __init__(self, gpu):
        self.gpu = {**DEFAULT_GPU, **gpu}

    def __getattr__(self, name):
        return getattr(current_platform, name)

    def is_cuda(self):
        return True

    def is_cuda_alike(self):
        return True

    def is_cpu(self):
        return False

    def device_count(self):
        return self.gpu["count"]

    def get_device_total_memory(self, _device_id=0):
        return int(self.gpu["memory_gib"] * 2**30)

    def get_device_name(self, _device_id=0):
        return self.gpu["name"]

    def is_device_capability(self, _capability, _device_id=0):
        # Asked only to tell a DGX Spark from a large discrete GPU.
        return "gb10" in self.gpu["name"].lower()


def look_up_reasoning_parser(configuration, model_config):
    """Stands in for ReasoningConfig.initialize_token_ids, whose second half needs the tokenizer."""
    if configuration.reasoning_parser:
        reasoning.ReasoningParserManager.get_reasoning_parser(configuration.reasoning_parser)


@contextlib.contextmanager
def node_with(gpu):
    """Lets vLLM's configuration classes see a node with these GPUs, at the places that the head of this file names."""
    stand_in = Gpu(gpu)
    original_defaults = arg_utils.EngineArgs.__dict__["get_batch_defaults"]

    def batch_defaults(cls, world_size):
        with mock.patch.object(arg_utils, "current_platform", stand_in):
            return original_defaults.__func__(cls, world_size)

    with (
        mock.patch.object(parallel, "current_platform", stand_in),
        mock.patch.object(arg_utils.EngineArgs, "get_batch_defaults", classmethod(batch_defaults)),
        mock.patch.object(type(current_platform), "is_sleep_mode_available", lambda _self: True),
        mock.patch.object(reasoning.ReasoningConfig, "initialize_token_ids", look_up_reasoning_parser),
    ):
        yield


def make_parser():
    """The parser of `vllm` with its subcommand `serve`, as vllm/entrypoints/cli/main.py builds it."""
    parser = FlexibleArgumentParser(prog="vllm")
    ServeSubcommand().subparser_init(parser.add_subparsers(required=False, dest="subparser"))
    return parser


def last_line(text):
    """What argparse says after the usage, without the usage."""
    marker = ": error: "
    return text[text.index(marker) + len(marker) :].strip() if marker in text else text.strip()


def check(parser, command):
    """Runs one command line. Returns (stage, outcome, message, resolved)."""
    arguments = list(command["args"])
    if arguments[:1] != ["serve"] or len(arguments) < 2 or arguments[1].startswith("-"):
        raise ValueError(f"{command['name']}: args must start with \"serve\" and the model")
    environment = dict(os.environ)
    stage, errors = "parser", io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
            pathlib.Path(directory, "config.json").write_text(json.dumps(command["model_config"]))
            # Before the other options, so that an option that lacks its value still lacks it.
            arguments[1:2] = [directory, "--skip-tokenizer-init"]
            with contextlib.redirect_stderr(errors):
                namespace = parser.parse_args(arguments)
            stage = "validate"
            validate_parsed_serve_args(namespace)
            namespace.model = namespace.model_tag
            stage = "config"
            with node_with(command.get("gpu", {})):
                configuration = arg_utils.AsyncEngineArgs.from_cli_args(namespace).create_engine_config(
                    usage_context=UsageContext.OPENAI_API_SERVER
                )
            resolved = {
                "tensor_parallel_size": configuration.parallel_config.tensor_parallel_size,
                "pipeline_parallel_size": configuration.parallel_config.pipeline_parallel_size,
                "distributed_executor_backend": str(configuration.parallel_config.distributed_executor_backend),
                "max_model_len": configuration.model_config.max_model_len,
                "max_num_seqs": configuration.scheduler_config.max_num_seqs,
                "max_num_batched_tokens": configuration.scheduler_config.max_num_batched_tokens,
                "quantization": configuration.model_config.quantization,
                "use_mla": configuration.model_config.use_mla,
            }
            return stage, "accepted", "", resolved
    except SystemExit as exit:
        # --help and --version leave with 0: the container would end at once, which is no server either.
        return stage, "refused", last_line(errors.getvalue()) or f"exits with code {exit.code}", None
    except Exception as error:  # noqa: BLE001  every error here ends `vllm serve`, whatever its class
        return stage, "refused", f"{type(error).__name__}: {error}", None
    finally:
        os.environ.clear()
        os.environ.update(environment)


def main():
    if __version__ != EXPECTED_VERSION:
        sys.exit(f"this is vLLM {__version__}, not {EXPECTED_VERSION}")
    try:
        text = pathlib.Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else sys.stdin.read()
        commands = json.loads(text)
        for command in commands:
            if command["expect"] not in ("accepted", "refused"):
                raise ValueError(f"{command['name']}: expect must be accepted or refused")
            command["model_config"], command["args"], command["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot read the commands: {error!r}", file=sys.stderr)
        return 2
    parser = make_parser()
    different = 0
    for command in commands:
        stage, outcome, message, resolved = check(parser, command)
        result = {"name": command["name"], "stage": stage, "outcome": outcome, "message": message}
        if resolved is not None:
            result["resolved"] = resolved
        if outcome != command["expect"]:
            different += 1
            result["expected"] = command["expect"]
        print(json.dumps(result), flush=True)
    print(f"{len(commands)} command lines, {different} not as expected", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
