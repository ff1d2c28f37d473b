#!/usr/bin/env bash
# Counts the instructions of the suballocator's two workloads, of requests beside 100,000 holes, and of a pool's pairs
# of allocation and free, by callgrind, and compares them with the committed baseline. It shows a regression of three
# per cent on a shared machine; a clock would not.
#
#   benchmark/suballoc-instructions.sh            check: exit status 1 if a count is off by more than TOLERANCE per cent
#   benchmark/suballoc-instructions.sh --update   write a new baseline
# Counts depend on the architecture and on the compiler. On other architectures than x86_64 the script checks nothing
# and says so. With another compiler than the baseline's, a difference may be the compiler's.
set -euo pipefail
cd "$(dirname "$0")/.."
baseline=benchmark/suballoc-instructions.txt
tolerance=${TOLERANCE:-3}

[ "$(uname -m)" = x86_64 ] || { echo "the baseline is for x86_64: nothing checked"; exit 0; }
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 2; }

built=$(cargo bench --locked --no-default-features --bench suballoc --bench suballoc-extremes \
  --bench pool-pairs --no-run --message-format=json 2>/dev/null)
# executable NAME: the path of a benchmark
executable() {
  sed -n "s/.*\"executable\":\"\([^\"]*\/$1-[0-9a-f]*\)\".*/\1/p" <<<"$built" | tail -n 1
}
bench=$(executable suballoc)
extremes=$(executable suballoc_extremes)
pairs=$(executable pool_pairs)
[ -x "$bench" ] && [ -x "$extremes" ] && [ -x "$pairs" ] || { echo "the benchmarks did not build" >&2; exit 2; }

# count COMMAND...
count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 >/dev/null |
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
empty=$(count "$extremes" --once none)
no_pairs=$(count "$pairs" --once none)

# instructions WORKLOAD: of the suballocator alone, or of 10,000 of the pool's pairs
instructions() {
  case $1 in
    trace | random)
      local all
      all=$(count "$bench" --once tlsf --workload "$1")
      echo $((all - $(count "$bench" --once none --workload "$1")))
      ;;
    pair-*) echo $(($(count "$pairs" --once "${1#pair-}") - no_pairs)) ;;
    *) echo $(($(count "$extremes" --once "$1") - empty)) ;;
  esac
}

compiler=$(rustc --version)
lines="# compiler: $compiler"
status=0
for workload in trace random served refused aligned pair-plain pair-tag pair-seen; do
  now=$(instructions "$workload")
  lines+=$'\n'"$workload $now"
  [ "${1:-}" = --update ] && continue
  was=$(sed -n "s/^$workload //p" "$baseline")
  verdict=$(awk -v now="$now" -v was="$was" -v most="$tolerance" \
    'BEGIN {
       d = 100 * (now / was - 1)
       word = (d > most) ? "slower" : (d < -most) ? "faster, update the baseline" : "ok"
       printf("%+.2f per cent: %s", d, word)
     }')
  echo "$workload: $now instructions, baseline $was, $verdict"
  case $verdict in *ok) ;; *) status=1 ;; esac
done
if [ "${1:-}" = --update ]; then
  echo "$lines" > "$baseline"
  cat "$baseline"
elif [ $status != 0 ]; then
  sed -n 's/^# compiler: /baseline made with: /p' "$baseline"
  echo "this is:            $compiler"
fi
exit $status
