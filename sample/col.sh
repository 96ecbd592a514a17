#!/usr/bin/env bash
# Sample videos of colonoscopy on one device:  bash sample/col.sh CHECKPOINT [KEY=VALUE ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" col one "$@"
