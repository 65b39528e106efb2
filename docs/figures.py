"""`make figures`: measure again what README and docs say, as `figures.yaml` lists it.

    python docs/figures.py [NAME ...] [--list]

Each figure has a folder, runs/figures/NAME, with its commands' files, what they printed
(output.txt) and what is done with when, where and with what (done.json). What is done
is not done again; a folder that is removed is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "docs" / "figures.yaml"
FOLDER = ROOT / "runs" / "figures"


def read() -> dict[str, dict[str, Any]]:
    """The figures by name."""
    return yaml.safe_load(LIST.read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    """The exit status: 1 if a command failed; the others ran all the same."""
    figures = read()
    parser = argparse.ArgumentParser(prog="docs/figures.py")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only")
    parser.add_argument("--list", action="store_true", help="what there is, no more")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in figures]:
        parser.error(f"expected some of {', '.join(figures)}, found {unknown[0]}")
    failed = []
    for name in args.names or figures:
        figure = figures[name]
        left = [line for line in figure["run"] if line not in done(name)]
        state = f"{figure['minutes']} min, of {', '.join(figure['docs'])}"
        print(f"{name}: {state if left else 'done'}", flush=True)
        if args.list:
            continue
        for line in left:
            if not run(name, line, figure.get("goes_on", False)):
                failed.append(name)
                break
    for name in failed:
        print(f"{name}: failed; see {FOLDER / name / 'output.txt'}", file=sys.stderr)
    return bool(failed)


def done(name: str) -> dict[str, Any]:
    """What is known of a figure's finished commands, by command."""
    file = FOLDER / name / "done.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def words(name: str, line: str) -> list[str]:
    """A command as it is run: OUT is the figure's folder, python this one."""
    found = [word.replace("OUT", str(FOLDER / name)) for word in shlex.split(line)]
    return [sys.executable, *found[1:]] if found[0] == "python" else found


def run(name: str, line: str, goes_on: bool) -> bool:
    """Run a command and note that it is done; whether it is."""
    command, folder = words(name, line), FOLDER / name
    if "--out" in command and not goes_on:  # what a run that was cut off has left
        shutil.rmtree(command[command.index("--out") + 1], ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    print(f"  {line}", flush=True)
    start = time.monotonic()
    with (folder / "output.txt").open("a", encoding="utf-8") as output:
        output.write(f"$ {line}\n")
        output.flush()
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PATH": path},
            stdout=output,
            stderr=output,
        ).returncode
    if status:
        return False
    known = done(name) | {line: about(time.monotonic() - start)}
    text = json.dumps(known, indent=1) + "\n"
    (folder / "done.json").write_text(text, encoding="utf-8")
    return True


def about(seconds: float) -> dict[str, Any]:
    """When, where and with what."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    found = {}
    for package in ("areal", "sglang", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[2], 1),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    } | found


if __name__ == "__main__":
    sys.exit(main())
