# Take everything off this machine; its data and keys only where that was asked for. Argument: keep | purge
[ ! -f "$OPT/current/compose.yaml" ] || compose down --timeout 20 --remove-orphans > /dev/null 2>&1 || true
if [ -d /run/systemd/system ]; then systemctl disable --quiet fedssh.service 2>/dev/null || true; rm -f /etc/systemd/system/fedssh.service; fi
for image in $(docker image ls --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep '^fedssh-' || true); do docker rmi "$image" > /dev/null 2>&1 || true; done
rm -f "$ROOT/prepared"
rm -rf "$OPT"
if [ "$1" = purge ]; then rm -rf "$ROOT"; else audit "removed; $ROOT is kept"; fi
