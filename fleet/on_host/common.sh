# What every script on a machine begins with. Before it stand: WHO (who deploys, from where), WHAT (verb and step).
set -eu
umask 022
ROOT=/var/lib/fedssh OPT=/opt/fedssh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

audit() { printf '%s %s: %s: %s\n' "$(date -u +%FT%TZ)" "$WHO" "$WHAT" "$*" >> "$ROOT/deploy.log"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
compose() { docker compose --project-name fedssh --file "$OPT/current/compose.yaml" "$@"; }
release_of() { basename "$(readlink "$OPT/current" 2>/dev/null || echo none)"; }
# All but those whose upgrade failed, the newest last.
good_releases() {
  ls "$OPT/releases" | grep -x '[0-9]*' | sort -n | while read -r number; do
    [ -e "$OPT/releases/$number/failed" ] || echo "$number"
  done
}

# The link is renamed into place: there is always one, the old or the new.
switch() {
  ln -sfn "releases/$1" "$OPT/.current"
  mv -T "$OPT/.current" "$OPT/current"
}

# The last thing that went wrong in a log of compose and of a room's command.
last_word() { grep -v '^ *\(Container\|Network\|time=\)' "$1" | grep . | tail -n 1; }

running() { [ "$(docker inspect --format '{{.State.Running}}' "fedssh-$1-1" 2>/dev/null)" = true ]; }
