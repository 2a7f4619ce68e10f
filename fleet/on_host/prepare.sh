# Make a machine ready: an engine from Debian's own packages, folders that belong to the rooms' user, the start script.
# Arguments: coordinator | site; the mark that says that all of this was done
role=$1 mark=$2
export DEBIAN_FRONTEND=noninteractive

packages() { # the packages of the first line that this distribution has all of
  while read -r line; do
    all=yes
    for one in $line; do apt-cache policy "$one" 2>/dev/null | grep -q 'Candidate: [^(]' || all=no; done
    [ $all = no ] || { echo "$line"; return; }
  done
}

if ! docker compose version > /dev/null 2>&1; then
  command -v apt-get > /dev/null || fail "no Docker engine with compose v2 here, and no apt-get to install one with"
  while fuser /var/lib/dpkg/lock-frontend > /dev/null 2>&1; do sleep 2; done # a new machine updates itself first
  apt-get update --quiet=2 > /dev/null || fail "apt-get update failed: $(apt-get update 2>&1 | grep '^[EW]:' | head -n 1)"
  if command -v docker > /dev/null; then wanted=$(printf '%s\n' docker-compose-v2 docker-compose | packages)
  else wanted=$(printf '%s\n' 'docker.io docker-cli docker-compose iptables' 'docker.io docker-compose-v2 iptables' | packages); fi
  [ -n "$wanted" ] || fail "this distribution has no Docker engine with compose v2 of its own; Debian 13 has"
  # shellcheck disable=SC2086 # they are words
  apt-get install --quiet=2 --yes --no-install-recommends $wanted > "$ROOT/apt.log" 2>&1 \
    || fail "apt-get install $wanted failed: $(grep '^E:' "$ROOT/apt.log" | head -n 1)"
  docker compose version > /dev/null 2>&1 || fail "docker compose is $(docker-compose --version 2>/dev/null || echo missing), version 2 is needed; Debian 13 has it"
  audit "installed $wanted"
fi
if ! docker version > /dev/null 2>&1; then
  if [ -d /run/systemd/system ]; then systemctl enable --now --quiet docker; else service docker start > /dev/null; fi
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do docker version > /dev/null 2>&1 && break; sleep 1; done
  docker version > /dev/null 2>&1 || fail "the Docker engine does not start: journalctl -u docker"
fi

mkdir -p "$OPT/releases" "$ROOT"
own() { install -d -o 10001 -g 10001 -m 700 "$@"; }
cd "$ROOT"
if [ "$role" = coordinator ]; then own vault inbox outbox door holdout; else own site exchange alice data join; fi

cat > "$OPT/.start" <<'SCRIPT'
#!/bin/sh
# Start what runs on this machine. Written by fedssh's deploy; systemd and people may call it at any time.
set -eu
# A cloud's metadata service knows the machine's secrets; the rooms do not reach it.
rule="DOCKER-USER -i fedssh0 -d 169.254.169.254 -j DROP"
iptables --wait --check $rule 2>/dev/null || iptables --wait --insert $rule
exec docker compose --project-name fedssh --file /opt/fedssh/current/compose.yaml up --detach --remove-orphans "$@"
SCRIPT
chmod 755 "$OPT/.start" && mv "$OPT/.start" "$OPT/start"
if [ -d /run/systemd/system ]; then
  cat > /etc/systemd/system/fedssh.service <<'UNIT'
[Unit]
Description=fedssh: the rooms of this machine
Requires=docker.service
After=docker.service network-online.target
Wants=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/fedssh/start
[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload && systemctl enable --quiet fedssh.service
fi
printf '%s\n' "$mark" > "$ROOT/prepared"
audit "prepared as $role"
