#!/usr/bin/env bash
# Sample many videos of capsule endoscopy on all GPUs of this machine, or on as many as GPUS says:
#   GPUS=8 bash sample/kva_ddp.sh CHECKPOINT count=3125 [KEY=VALUE ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" kva many "$@"
