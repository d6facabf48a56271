"""Run the benchmarks, print a table and write JSON.

python -m benchmarks                        all of them
python -m benchmarks --only moments scoring
python -m benchmarks --quick                to see that they run
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, Settings, load

BENCHMARKS = (
    "imports",
    "moments",
    "scoring",
    "sampling",
    "loading",
    "steps",
    "batching",
    "accuracy",
    "comparisons",
    "sizes",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks.json"), help="where the results go")
    parser.add_argument("--folder", type=Path, help="keeps the simulated recordings for another time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    args_folder = arguments.folder or Path(tempfile.mkdtemp(prefix="poyo-ssl-benchmarks-"))
    settings = Settings(args_folder, arguments.quick)

    results: list[dict[str, Any]] = []
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(HEADER, flush=True)
    for name in arguments.only:
        begin, before = time.perf_counter(), load()
        for row in importlib.import_module(f"benchmarks.{name}").run(settings):
            print(line(row), flush=True)
            results.append({"benchmark": name, **row.as_dict(), "load": [before, load()]})
        print(f"{'':4}({name}: {time.perf_counter() - begin:.0f} s, load {before[0]})", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine(), "quick": settings.quick, "rows": results}, indent=1))
    print(f"written to {arguments.json}")


HEADER = f"{'what':<62} {'measured':>10} {'reach':>9}"


def line(row: Row) -> str:
    measured = f"{row.ratio:.3g} {row.unit}"
    mark = "" if row.reached else "   NOT REACHED"
    return f"{row.name[:62]:<62} {measured:>10} {row.sense + f'{row.reach:g}':>9}{mark}"


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The model of the processor and the widest vectors it has, where the system says them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    said = {key.strip(): value.strip() for key, value in lines.items()}
    widest = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in said.get("flags", "").split()), "")
    return f"{said.get('model name', platform.machine())} {widest}".strip()


if __name__ == "__main__":
    main()
