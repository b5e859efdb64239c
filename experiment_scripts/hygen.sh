#!/usr/bin/env bash
# HyGen on marine_hard with medium data, also with fixed shares and without refinement, versus ODIS, HiSSD and BC-t.
#   experiment_scripts/hygen.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# results=results/skills_smax/facts.jsonl reuses the runs of the offline methods (profile=cpu).
# Time: smoke 2 runs; cpu 33 runs, of which 21 are of HyGen: 6 to 12 minutes each on one core, the three with more
# updates 17; paper 30 runs, not yet measured. Needs vaults smax/*/medium, but for smoke.
sweep=hygen
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
