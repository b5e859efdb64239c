#!/usr/bin/env bash
# Figure 5b: size of the model on fifteen RWARE tasks, embed_dim 64 … 768. Also: make sweep
#   experiment_scripts/model_size.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 9 runs, paper 45 runs; not yet measured.
sweep=model_size
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
