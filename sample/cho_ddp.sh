#!/usr/bin/env bash
# Sample many videos of laparoscopic cholecystectomy on all GPUs of this machine, or on as many as GPUS says:
#   GPUS=8 bash sample/cho_ddp.sh CHECKPOINT count=3125 [KEY=VALUE ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" cho many "$@"
