# Finish what an upgrade left behind when this machine or its engine stopped in the middle: back to before it, unless
# the door had opened already.
[ -f "$ROOT/upgrade" ] || exit 0
trap '' HUP PIPE
old="" new="" stage=""
eval "$(grep -o '[a-z]*=[a-z0-9]*' "$ROOT/upgrade")"
copy=$ROOT/before-$new
if [ "$stage" = opening ]; then # sites may have seen newer records
  "$OPT/start" > "$ROOT/start.log" 2>&1 || true
  rm -f "$ROOT/upgrade" && rm -rf "$copy"
  audit "finished the upgrade from release $old to $new"
  echo "release $new stays"
  exit 0
fi
[ ! -d "$copy" ] || touch "$OPT/releases/$new/failed"
back
audit "undid the upgrade from release $old to $new"
echo "release $old is back"
