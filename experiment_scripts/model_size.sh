#!/usr/bin/env bash
# Figure 5b: model size, embed_dim 64 … 768, on fifteen RWARE tasks. Also: make sweep
#   experiment_scripts/model_size.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 9 runs (width 64: 8 to 25 minutes on one core, 128: 25 to 55,
#   256: 60 to 70), paper 45 runs.
# results=results/model_size/facts.jsonl reuses the runs of the published report.
sweep=model_size
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
