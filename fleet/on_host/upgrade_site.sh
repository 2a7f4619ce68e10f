# Another release for a site. Its rooms must run for as long as is asked, or the release before is put back.
# Arguments: the release; seconds to watch
new=$1 seconds=$2
old=$(release_of)
trap '' HUP PIPE
well() { # Alice may also have finished her sessions
  for one in $(compose config --services); do
    state=$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' "fedssh-$one-1")
    case $state in 'running 0 0' | 'exited 0 '*) ;; *) echo "$one is $state: $(docker logs --tail 1 "fedssh-$one-1" 2>&1)" >&2; return 1 ;; esac
  done
}
try() {
  switch "$new"
  "$OPT/start"
  end=$(($(date +%s) + seconds))
  while [ "$(date +%s)" -lt "$end" ]; do well; sleep 1; done
}
set +e
(set -e; try) > "$ROOT/upgrade.log" 2>&1
code=$?
set -e
if [ $code != 0 ]; then
  why=$(last_word "$ROOT/upgrade.log")
  switch "$old"
  touch "$OPT/releases/$new/failed"
  "$OPT/start" > "$ROOT/start.log" 2>&1
  audit "release $new failed, $old is back: $why"
  fail "release $new failed, release $old is back: $why"
fi
audit "upgraded from release $old to $new"
