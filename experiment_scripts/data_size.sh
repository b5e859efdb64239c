#!/usr/bin/env bash
# Figure 5a: size of the dataset at five RWARE tasks.
#   experiment_scripts/data_size.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 27 runs, paper 45 runs; not yet measured.
sweep=data_size
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
