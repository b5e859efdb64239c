#!/usr/bin/env bash
# Does training on all five LBF tasks beat training on the first alone, on the five held-out tasks?
# (Multi-task paper, figure 1: +29% on LBF.) MT Oryx both times, 3 seeds, equal updates, 320 episodes a task.
#   experiment_scripts/lbf_multi_vs_single.sh [option=value …]     results: runs/lbf_multi_vs_single/report
# Resumable: run it again after an interruption; finished runs are left alone.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=runs/lbf_multi_vs_single
for seed in 0 1 2; do
  for first in 1 5; do
    "$python" -m mtmarl.train +algo=mt_oryx +tasks=lbf_5 "tasks.first=$first" "seed=$seed" \
      "run_dir=$runs/first${first}_seed$seed" algo.network.embed_dim=64 trainer.batch_size=60 \
      trainer.updates=2000 trainer.chunk=20 trainer.checkpoint_every=200 evaluator.every=200 evaluator.episodes=64 "$@"
  done
done
"$python" -m mtmarl.report "$runs" --out "$runs/report"
