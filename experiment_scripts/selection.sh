#!/usr/bin/env bash
# Bias of checkpoint selection on the held-out tasks, compared with selection on the training tasks.
#   experiment_scripts/selection.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 18 runs of 6 to 23 minutes on one core, paper 18 runs.
sweep=selection
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
