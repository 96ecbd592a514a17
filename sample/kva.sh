#!/usr/bin/env bash
# Sample videos of capsule endoscopy on one device:  bash sample/kva.sh CHECKPOINT [KEY=VALUE ...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" kva one "$@"
