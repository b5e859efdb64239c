#!/usr/bin/env bash
# bfloat16 versus float32: returns of MT Oryx on lbf_5.
#   experiment_scripts/precision.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 6 runs of 7 to 16 minutes on one core.
sweep=precision
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
