#!/usr/bin/env bash
# What the other scripts of this folder share; they say how to call them.
#   bash sample/launch.sh DATASET one|many CHECKPOINT [KEY=VALUE ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dataset=$1 processes=$2
shift 2
suffix=
if [ "$processes" = many ]; then suffix=_ddp; fi
if [ $# -eq 0 ]; then
    echo "usage: bash sample/$dataset$suffix.sh CHECKPOINT [KEY=VALUE ...]" >&2
    exit 2
fi
if [ ! -e "$1" ]; then
    echo "error: $1: no such run folder, checkpoint or weights file" >&2
    exit 2
fi
checkpoint=$(realpath "$1")
shift

# Paths are meant as seen from where the user is, but the modules are found from the root.
settings=()
for setting in "$@"; do
    case $setting in
        output=/*) ;;
        output=*) setting=output=$PWD/${setting#output=} ;;
    esac
    settings+=("$setting")
done
cd "$root"

# The active environment, else the one that `make setup` made.
python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then
    python=.venv/bin/python
fi
case $processes in
    one) command=("$python" -m sample.sample) ;;
    many)
        command=("$python" -m torch.distributed.run --standalone
            --nproc_per_node="${GPUS:-auto}" -m sample.sample_ddp)
        ;;
esac
exec "${command[@]}" --config "configs/$dataset/sample.yaml" --checkpoint "$checkpoint" \
    ${settings[@]+"${settings[@]}"}
