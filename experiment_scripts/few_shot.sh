#!/usr/bin/env bash
# Few-shot learning: online Sable on two held-out Connector tasks, from a policy of MT Oryx and from nothing.
#   experiment_scripts/few_shot.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Run few_shot_pretraining.sh with the same profile first. Time: smoke 1 run, cpu and paper 12 runs; not yet measured.
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=few_shot "$@"
