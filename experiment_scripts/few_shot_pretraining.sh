#!/usr/bin/env bash
# What few_shot.sh starts from: MT Oryx on ten Connector tasks.
#   experiment_scripts/few_shot_pretraining.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu and paper 3 runs; not yet measured.
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=few_shot_pretraining "$@"
