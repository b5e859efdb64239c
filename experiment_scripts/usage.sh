# Sourced by scripts whose own words come first: -h or --help prints the comment at their head, and no more where a
# first argument says which sweep is meant. Others set `sweep`, whose help follows.
for word in "$@"; do
  case $word in -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    [ -n "${sweep:-}" ] || exit 0
    echo
    ;;
  esac
done
if [ -z "${PYTHON:-}" ] && [ ! -x .venv/bin/python ]; then
  echo "error: no .venv/bin/python here; run 'make setup' in the root of the repository, and this from there" >&2
  exit 2
fi
