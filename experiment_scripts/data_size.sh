#!/usr/bin/env bash
# Figure 5a: dataset size, on five RWARE tasks.
#   experiment_scripts/data_size.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 18 runs of 6 to 17 minutes on one core, paper 45 runs.
sweep=data_size
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
