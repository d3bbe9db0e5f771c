#!/usr/bin/env python3
"""Writes every option of `vllm serve` 0.33.0, as vLLM's own parser registers it, to a JSON file.

Usage: "$(dev/vllm/prepare.sh)" dev/vllm/dump_arguments.py [core/data/vllm-0.33.0-arguments.json]

The file is a JSON array, one option a line, sorted by `dest`:

  option_strings  every spelling the parser knows by heart, also those that its help hides: short forms,
                  `--no-x`, and for `--enable-x` also `--disable-x` (and the reverse)
  dest            the attribute that is set; spellings with one `dest` are one option
  takes_value     false: a flag; true: exactly one value; "+": one or more; "?": none or one
  type            flag, string, lenient_string (lower-cased, `-` turned into `_` before the choices are compared),
                  int, float, human_readable_int, human_readable_int_or_auto, json (validated against a class or
                  not), json_or_string, comma_separated; "optional " before it: "" and "None" unset it
  choices         the values that are accepted, or null
  default         null where there is none

The positional model is not in the file: it has no spelling.

How vLLM's FlexibleArgumentParser reads a command line (utils/argparse_utils.py, `parse_args`; each rule was run).
The list `vllm serve MODEL ...` is rewritten first, then Python's argparse reads it with `allow_abbrev`.

 1. `--config FILE` (two elements, exactly this spelling, at most once) is replaced by the content of the YAML file,
    put after MODEL, so that what is on the command line wins. A key is prefixed with `--`; `true` is a flag, `false`
    is `--no-<key>` if that exists and is dropped otherwise; a list gives several values, a mapping gives JSON.
    `--config=FILE` is accepted and NOT read. `--conf` is ambiguous with `--config-format`.
 2. `--model X`, before step 1 and before normalisation, moves X to the place of MODEL: with a MODEL the parser then
    refuses MODEL as an unrecognized argument.
 3. In an element that starts with `--`, `_` becomes `-` up to the first `.` or `=`. `--tensor_parallel_size=2` and
    `--tensor-parallel_size 2` are `--tensor-parallel-size`. Names are case sensitive. `-tp_2` is not touched.
 4. `-O3`, `-O=3`, `-O 3` (a digit from 0 to 3) and `-OO3` are `--optimization-level`; `-O decode` is refused.
 5. An element that starts with `-`, has a `.` before any `=`, is a path into a JSON option: `--x.y.z V`,
    `--x.y=V`, `-sc.model V`. All with one name (as spelled: `-sc` and `--speculative-config` are two) are merged
    into one object that is put at the END of the list, so it replaces a JSON value of that option wherever that
    stands; it is not merged with it. `--x.y+ a,b` appends to a list. V is JSON, else a human-readable integer, else
    a string, and is taken even if it looks like an option. Without a V the parser crashes (IndexError). So does any
    last element such as `-0.5`: `--shutdown-timeout -1.5` and `-qa.b` end in IndexError, not in a message.
 6. argparse: a unique prefix of a `--` spelling is that option, also with `=` and also before a `.`
    (`--te 2`, `--tensor_p=2`, `--comp.mode=3`, `--gpu 0.5`, `--no-enable-prefix-c`); an ambiguous one is refused.
    An exact spelling wins over longer ones. Hidden spellings count for prefixes.
 7. A prefix of a single-dash spelling is that option too, if unique and the value is separate: `-t 2` is `-tp 2`,
    `-s V` is `-sc V`, `-as 2` is `-asc 2`, `-e` is `-ep`, `-c.mode 3` is `-cc.mode 3`; `-p`, `-d` and `-a` are
    ambiguous. `-t=2` is refused (Python 3.11.7, 3.12.1 and 3.13.0), but it is argparse that decides, not vLLM.
 8. `-tp 2` and `-tp=2` are accepted, `-tp2` is refused (unrecognized). A value may only be glued to a spelling of
    one letter: `-n2`, `-r0`, `-qawq`. Hence `-quantization` is `-q uantization` and `-nnodes` is `-n nodes`.
 9. Flags take no value: `--x=true` is "ignored explicit argument", `--x true` is "unrecognized arguments: true".
10. Of repeated options the last wins, whatever the spelling; only `--middleware` collects. Options with "+" take
    several values in one go (`--api-key a b`), yet repeating them replaces (`--api-key a --api-key b` is [b]), and
    `--api-key=a b` leaves `b` unrecognized.
11. A value that starts with `-` is refused as a value, save negative numbers (`--max-model-len -1`).
    `--x=-anything` is accepted.
12. Integers are Python's `int()`: blanks around, `+2`, `32_000` and digits of other scripts are accepted; `2.0`,
    `0x2` and `1e5` are not. Only the two human-readable types take suffixes: --max-model-len,
    --max-num-batched-tokens, --max-num-scheduled-tokens, --max-num-queued-tokens, --kv-cache-memory-bytes,
    --safetensors-prefetch-block-size. k m g t are powers of 1000 and may have decimals (`1.5k`), K M G T are powers
    of 1024 and may not; `1k` is refused for --max-num-seqs and --tensor-parallel-size, `10GB` everywhere.
    --max-model-len also takes `auto` in any case and -1.
13. `--help`, `-h`, `--hel` and `--help=x` print and exit with code 0 before anything is checked.
14. A second word that is no option is refused as unrecognized; so is `--`, save as the element right after MODEL
    with nothing behind it.

Run with Python 3.11.7 on vLLM's own parser, and all 275 lines of the experiment again with 3.12.1 and 3.13.0 on its
argparse_utils.py with the options of this file: one differs, `-hfoo` (refused by 3.11 and 3.12, help in 3.13).
"""

import enum
import inspect
import json
import os
import pathlib
import sys

os.environ.update(VLLM_TARGET_DEVICE="cpu", VLLM_NO_USAGE_STATS="1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm.entrypoints.cli.serve import ServeSubcommand  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402
from vllm.version import __version__  # noqa: E402

EXPECTED_VERSION = "0.33.0"

# Names that Python gives to vLLM's conversion functions, and what they mean to a reader of the file.
TYPES = {
    "str": "string",
    "int": "int",
    "float": "float",
    "human_readable_int": "human_readable_int",
    "human_readable_int_or_auto": "human_readable_int_or_auto",
    "loads": "json",
    "parse_dataclass": "json",
    "union_dict_and_str": "json_or_string",
    "parse_reasoning_parser": "string",
}


def type_name(action):
    """The type of an action in the words of the file."""
    if action.nargs == 0:
        return "flag"
    convert, optional = action.type, ""
    while convert is not None and convert.__name__ in ("_optional_type", "_parse_type"):
        if convert.__name__ == "_optional_type":
            optional = "optional "
        convert = inspect.getclosurevars(convert).nonlocals["return_type"]
    if convert is None:
        return optional + "string"
    if convert.__name__ == "<lambda>":
        # Three options that name a back end, all with choices, and --device-ids, which splits at commas.
        return optional + ("lenient_string" if action.choices else "comma_separated")
    return optional + TYPES[convert.__name__]


def plain(value):
    """A default as JSON. A configuration class with only defaults says no more than its being unset."""
    if value is None or isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, enum.Enum):
        return value.name if isinstance(value.value, int) else value.value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return None


def takes_value(action):
    if action.nargs == 0:
        return False
    return True if action.nargs is None else action.nargs


def main():
    if __version__ != EXPECTED_VERSION:
        sys.exit(f"this is vLLM {__version__}, not {EXPECTED_VERSION}")
    root = FlexibleArgumentParser(prog="vllm")
    parser = ServeSubcommand().subparser_init(root.add_subparsers(dest="subparser"))

    # An action's own list leaves out the hidden spellings, so the parser's table is read.
    spellings = {}
    for spelling, action in parser._option_string_actions.items():
        spellings.setdefault(id(action), []).append(spelling)

    rows = []
    for action in parser._actions:
        if not action.option_strings:
            continue
        rows.append(
            {
                "option_strings": sorted(spellings[id(action)]),
                "dest": action.dest,
                "takes_value": takes_value(action),
                "type": type_name(action),
                "choices": None if action.choices is None else [plain(choice) for choice in action.choices],
                "default": None if action.default == "==SUPPRESS==" else plain(action.default),
            }
        )
    rows.sort(key=lambda row: (row["dest"], row["option_strings"]))
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    if len(sys.argv) > 1:
        pathlib.Path(sys.argv[1]).write_text(text, encoding="utf-8")
        print(f"{len(rows)} options, {sum(map(len, spellings.values()))} spellings", file=sys.stderr)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
