"""Check that notebooks, package and README agree: export, clean and readme change nothing; else name what differs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def git(*words: str, cwd: Path = ROOT) -> str:
    return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


def copy_tree(target: Path) -> None:
    """Copy what git tracks or would add, as it lies in the working tree, and make it a repository of its own."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    git("init", "-q", cwd=target)
    git("add", "-A", "-f", cwd=target)


def differences(target: Path) -> list[str]:
    for command in (
        ["nbdev-export"],
        ["nbdev-clean"],
        [
            "jupyter",
            "nbconvert",
            "--to",
            "markdown",
            "--log-level",
            "WARN",
            "--output-dir",
            ".",
            "--output",
            "README",
            "nbs/index.ipynb",
        ],
    ):
        # The copy's own package is imported, not the installed one
        environment = os.environ | {"PYTHONPATH": str(target)}
        subprocess.run(
            [str(BIN / command[0]), *command[1:]], cwd=target, check=True, capture_output=True, env=environment
        )
    return (
        git("diff", "--stat", cwd=target).splitlines()
        + git("ls-files", "--others", "--exclude-standard", cwd=target).splitlines()
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        found = differences(Path(folder))
    for line in found:
        print(line)
    if found:
        print("notebooks, package and README disagree: type")
        print("    .venv/bin/nbdev-export && .venv/bin/nbdev-clean && make readme")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
