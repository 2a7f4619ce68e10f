# Another release for the coordinator, all here, so that nothing depends on the line to whoever asked for it.
# Arguments: the release; copy | code; seconds that Charity may take
#
#   close the door · stop Charity · copy her state · switch · start Charity · verify · ready · open the door
#
# Until the door opens, any failure puts release and state back as they were. After it only code goes back, never data:
# sites have seen newer records. $ROOT/upgrade says how far it is, for the case that the machine itself stops here.
new=$1 copying=$2 seconds=$3
old=$(release_of)
copy=$ROOT/before-$new
trap '' HUP PIPE

stage() { printf 'old=%s new=%s stage=%s\n' "$old" "$new" "$1" > "$ROOT/.upgrade" && mv "$ROOT/.upgrade" "$ROOT/upgrade"; sync; echo "$1" || true; }

try() {
  compose stop --timeout 20 door
  compose stop --timeout 60 charity
  if [ "$copying" = copy ]; then
    rm -rf "$copy" && mkdir -m 700 "$copy"
    for one in vault inbox outbox door; do
      cp --archive --link "$ROOT/$one" "$copy/"
      # What is written in place must be a file of its own: all that is no model, evidence or release.
      (cd "$copy/$one" && find . -type f ! -path './models/*' ! -path './evidence/*' ! -path './releases/*' | while read -r file; do
        cp --preserve=all "$ROOT/$one/$file" "$copy/.file" && mv "$copy/.file" "$file"
      done)
    done
    stage copied
  fi
  switch "$new"
  compose up --detach --no-deps --force-recreate charity
  compose run --rm --no-deps --no-TTY charity verify < /dev/null
  end=$(($(date +%s) + seconds))
  until docker logs --since "$(docker inspect --format '{{.State.StartedAt}}' fedssh-charity-1)" fedssh-charity-1 2>&1 | grep -q '^charity: serving '; do
    [ "$(date +%s)" -lt "$end" ] || { echo "Charity is not ready after $seconds s" >&2; return 1; }
    [ "$(docker inspect --format '{{.RestartCount}}' fedssh-charity-1)" -lt 2 ] || { echo "Charity does not stay up" >&2; return 1; }
    sleep 0.5
  done
}

stage begun
set +e
(set -e; try) > "$ROOT/upgrade.log" 2>&1
code=$?
set -e
if [ $code != 0 ]; then
  why=$(last_word "$ROOT/upgrade.log")
  said=$(docker logs --tail 1 fedssh-charity-1 2>&1 || true)
  back
  touch "$OPT/releases/$new/failed"
  audit "release $new failed, $old is back: $why"
  printf 'release %s failed, release %s is back: %s%s\n' "$new" "$old" "$why" "${said:+; Charity said: $said}" >&2
  exit 1
fi
stage opening # from here on there is no way back, also not for undo.sh
opened=yes
"$OPT/start" > "$ROOT/start.log" 2>&1 || opened=no
rm -f "$ROOT/upgrade"
rm -rf "$copy"
audit "upgraded from release $old to $new"
[ $opened = yes ] || fail "release $new stays, and not all of it starts: $(tail -n 1 "$ROOT/start.log")"
echo "done"
