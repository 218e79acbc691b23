# shellcheck shell=bash
# Ends what a test run leaves behind, however it ended: process.rs starts one of these for a test binary, and holds the
# other end of its standard input. When that closes, the run is over, by its own will, by a panic or by kill -9; then
# the keeper kills the engines that are still there and removes the run's folder. Arguments: that folder.
#
# Lines of input: "+pid N" an engine is about to run, "-pid N" it was reaped; "+file PATH" it will make a file outside
# the folder, "-file PATH" that was removed.
set -u

folder=$1
declare -A pids files

# Ctrl-C and a closing terminal end the tests; the keeper has its work still before it.
trap '' HUP INT QUIT TERM

while read -r what which; do
  case $what in
    +pid) pids[$which]=1 ;;
    -pid) unset "pids[$which]" ;;
    +file) files[$which]=1 ;;
    -file) unset "files[$which]" ;;
  esac
done

any_alive() {
  local pid
  for pid in "${!pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then return 0; fi
  done
  return 1
}

# Each leads a process group, in which its own children are, too.
for pid in "${!pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
for ((tenths = 0; tenths < 50; tenths++)); do
  any_alive || break
  sleep 0.1
done
rm -rf -- "$folder" "${!files[@]}"
