# Make a release the current one where there is none yet. Argument: its number
[ -e "$OPT/current/compose.yaml" ] || { switch "$1"; audit "switched to release $1"; }
