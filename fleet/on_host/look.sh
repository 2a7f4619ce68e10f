# Say what is here, a fact per line. Changes nothing.
say() { printf '%s %s\n' "$1" "$2"; }
least() { sort -n | head -n 1; }

say arch "$(uname -m)"
say time "$(date +%s)"
say memory "$({ awk '/^MemTotal:/ {printf "%.0f\n", $2 * 1024}' /proc/meminfo
  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null | grep -x '[0-9]*' || true; } | least)"
say disk "$(df --block-size=1 --output=avail /var/lib | tail -n 1 | tr -d ' ')"
[ ! -d /run/systemd/system ] || say systemd yes
if command -v docker > /dev/null 2>&1; then
  say engine "$(docker version --format '{{.Server.Version}}' 2>/dev/null || echo down)"
  say compose "$(docker compose version --short 2>/dev/null || echo none)"
  if root=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null) && [ -d "$root" ]; then
    say layers "$(df --block-size=1 --output=avail "$root" | tail -n 1 | tr -d ' ')"
  fi
  case $(docker info --format '{{json .Runtimes}}' 2>/dev/null) in *nvidia*) say gpu yes ;; esac
  docker image ls --format 'image {{.Repository}}:{{.Tag}}' 2>/dev/null | grep '^image fedssh-' || true
  for one in $(docker ps --all --quiet --filter label=com.docker.compose.project=fedssh --filter label=com.docker.compose.oneoff=False 2>/dev/null); do
    docker inspect --format 'container {{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.State.OOMKilled}} {{.State.StartedAt}} {{.Config.Image}}' "$one"
  done
fi
[ ! -f "$ROOT/prepared" ] || say prepared "$(cat "$ROOT/prepared")"
[ ! -L "$OPT/current" ] || say release "$(release_of)"
[ ! -f "$OPT/current/compose.yaml" ] || say rendered "$(sha256sum < "$OPT/current/compose.yaml" | cut -c 1-64)"
[ ! -d "$OPT/releases" ] || say releases "$(good_releases | tr '\n' ' ')"
[ ! -f "$ROOT/vault/ledger.db" ] || [ ! -f "$ROOT/outbox/ledger.jsonl" ] || say begun yes
[ ! -f "$ROOT/data.sha256" ] || say data "$(cat "$ROOT/data.sha256")"
[ ! -f "$ROOT/site/site_key.pub" ] || say key "$(cat "$ROOT/site/site_key.pub")"
[ ! -f "$ROOT/site/site.json" ] || say joined yes
[ ! -f "$ROOT/join/invitation.json" ] || say invitation "$(sha256sum < "$ROOT/join/invitation.json" | cut -c 1-64)"
[ ! -f "$ROOT/upgrade" ] || say upgrade "$(tr '\n' ' ' < "$ROOT/upgrade")"
if flock --nonblock "$ROOT/deploy.lock" true 2>/dev/null; then :; elif [ -f "$ROOT/deploy.lock" ]; then
  say busy "$(cat "$ROOT/deploy.lock.who" 2>/dev/null)"
fi
