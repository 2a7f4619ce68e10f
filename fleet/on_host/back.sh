# Undo what an upgrade has done so far (comes before the script that uses it). Wants old and copy; reads $ROOT/upgrade. May be done again from any point.
back() {
  compose stop --timeout 20 door charity > /dev/null 2>&1 || true
  if grep -q 'stage=\(copied\|back\)' "$ROOT/upgrade"; then
    sed -i 's/stage=copied/stage=back/' "$ROOT/upgrade"
    for one in vault inbox outbox door; do
      [ ! -d "$copy/$one" ] || { rm -rf "${ROOT:?}/$one"; mv "${copy:?}/$one" "$ROOT/$one"; }
    done
  fi
  switch "$old"
  "$OPT/start" > "$ROOT/start.log" 2>&1
  rm -f "$ROOT/upgrade" && rm -rf "$copy"
}
