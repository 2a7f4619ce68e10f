# Take this machine's lock for as long as whoever asked keeps the line open: a line every 15 s, or the lock is free.
# Arguments: lock | look
if [ "$1" = lock ]; then
  mkdir -p "$ROOT"
  exec 8>> "$ROOT/deploy.lock"
  if ! flock --nonblock 8; then
    printf 'busy %s\n' "$(cat "$ROOT/deploy.lock.who" 2>/dev/null)"
    exit 75
  fi
  printf '%s, %s, since %s\n' "$WHO" "$WHAT" "$(date -u +%FT%TZ)" > "$ROOT/deploy.lock.who"
fi
echo ready
exec bash -c 'while read -r -t 60 line; do :; done'
