# A heart in plain shell: one beat each 20 ms or so, for a bounded number of beats.
n=0
while [ "$n" -lt "${2:-500}" ]; do
  n=$((n + 1))
  echo "$n" > "$1"
  sleep 0.02
done
