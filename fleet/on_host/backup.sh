# All that cannot be made again, sealed here for whoever may open it, to standard output. Charity stops meanwhile, the
# door stays open; Bob stops meanwhile, too. Arguments: a service whose image seals; recipients, one a word
service=$1; shift
cd "$ROOT"
case $service in charity) rooms='vault inbox outbox door holdout' ;; *) rooms='site alice join' ;; esac
image=$(docker inspect --format '{{.Config.Image}}' "fedssh-$service-1")
stopped=$(compose ps --services --status running | grep -x 'charity\|bob\|alice' || true)
trap 'for one in $stopped; do docker start "fedssh-$one-1" > /dev/null; done' EXIT
for one in $stopped; do docker stop --time 60 "fedssh-$one-1" > /dev/null; done
touch .whole # the last in the archive: without it, it was cut off
# shellcheck disable=SC2086,SC2046 # they are words
tar --create --numeric-owner $rooms $(ls data.sha256 2>/dev/null) .whole \
  | docker run --rm --interactive --network none --read-only --cap-drop ALL --entrypoint python "$image" -c '
import sys
from pyrage import encrypt_io, ssh, x25519
kinds = {"a": x25519.Recipient, "s": ssh.Recipient}
encrypt_io(sys.stdin.buffer, sys.stdout.buffer, [kinds[one[0]].from_str(one) for one in sys.argv[1:]])' "$@"
audit "backup"
