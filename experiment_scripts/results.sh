#!/usr/bin/env bash
# Regenerates the reports in results/ from their facts, then the quoted tables in README and docs.
#   experiment_scripts/results.sh [NAME …]
# Time: under a minute in all. Figures are drawn where README or docs show them.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.
[ $# -gt 0 ] || set -- results/*/
for name in "$@"; do
  name=$(basename "$name") pictures=() more=()
  case $name in
    table1) pictures=(table1-cpu) ;;
    # Earlier versions kept no evaluations of these, which their figure shows.
    online_sable_*) continue ;;
  esac
  [ "$name" = few_shot ] && more=(--threshold 1)
  $python -m mtmarl.report "results/$name/facts.jsonl" --out "results/$name" "${more[@]}" --pictures "${pictures[@]}" || exit
done
exec "$python" experiment_scripts/quote_results.py
