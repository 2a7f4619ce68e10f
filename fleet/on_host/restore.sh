# Put a backup from standard input, a tar archive, in the place of what is here; that is kept aside until the new runs.
# Argument: the service that must be well afterwards
service=$1
cd "$ROOT"
rm -rf .restored && mkdir -m 700 .restored
tar --extract --numeric-owner --same-owner --same-permissions --directory .restored || fail "the archive is cut off or damaged"
rm .restored/.whole 2>/dev/null || fail "the archive is cut off"
# Anybody can seal an archive for a public key: it must hold what a backup holds, and no links in the place of folders.
for one in .restored/*; do
  case $one in
    .restored/vault | .restored/inbox | .restored/outbox | .restored/door | .restored/holdout | .restored/site | .restored/alice | .restored/join) [ -d "$one" ] && [ ! -L "$one" ] ;;
    .restored/data.sha256) [ -f "$one" ] && [ ! -L "$one" ] ;;
    *) false ;;
  esac || { name=${one#.restored/}; rm -rf .restored; fail "the archive is no backup: it has $name"; }
done
compose stop --timeout 60 > /dev/null 2>&1
aside=aside-$(date -u +%Y%m%dT%H%M%SZ)
mkdir -m 700 "$aside"
for one in .restored/*; do
  one=${one#.restored/}
  [ ! -e "$one" ] || mv "$one" "$aside/"
  mv ".restored/$one" "$one"
done
rmdir .restored
if [ "$service" = charity ] && ! said=$(compose run --rm --no-deps --no-TTY charity verify < /dev/null 2>&1); then
  for one in "$aside"/*; do [ ! -e "$one" ] || { rm -rf "${one#"$aside"/}" && mv "$one" .; }; done
  rmdir "$aside"
  "$OPT/start" > "$ROOT/start.log" 2>&1 || true
  fail "what was here is back; the backup does not verify: $(printf '%s' "$said" | tail -n 1)"
fi
"$OPT/start" > "$ROOT/start.log" 2>&1 || fail "not started: $(tail -n 1 "$ROOT/start.log")"
audit "restored; what was here is in $ROOT/$aside"
echo "$aside"
