#!/usr/bin/env bash
# The same environment as everywhere: from the lock, into .venv; notebooks get clean diffs and merges.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup-dev
.venv/bin/python -m ipykernel install --sys-prefix --name python3 --display-name "Python ([[ name ]])"
.venv/bin/nbdev-install-hooks
