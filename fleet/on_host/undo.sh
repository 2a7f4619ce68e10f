# Finish what an upgrade left behind when this machine or its engine stopped in the middle: back to before it.
[ -f "$ROOT/upgrade" ] || exit 0
trap '' HUP PIPE
eval "$(grep -o '[a-z]*=[a-z0-9]*' "$ROOT/upgrade")"
copy=$ROOT/before-$new
back
audit "undid the upgrade from release $old to $new"
echo "release $old is back"
