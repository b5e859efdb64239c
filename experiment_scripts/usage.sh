# Sourced by scripts whose own words come first: -h or --help prints the comment at their head.
for word in "$@"; do
  case $word in -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  esac
done
