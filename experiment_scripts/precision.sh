#!/usr/bin/env bash
# Whether bfloat16 costs returns: MT Oryx on lbf_5 in both precisions.
#   experiment_scripts/precision.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 6 runs of 8 to 11 minutes on one core.
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=precision "$@"
