#!/usr/bin/env bash
# Sample videos of laparoscopic cholecystectomy on one device:  bash sample/cho.sh CHECKPOINT [KEY=VALUE ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" cho one "$@"
