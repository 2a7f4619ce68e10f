# Join by the invitation on standard input, Bob now and Alice when she starts.
install -o 10001 -g 10001 -m 600 /dev/stdin "$ROOT/join/.invitation.json"
compose run --rm --no-deps --no-TTY bob join --offline "$@" - < "$ROOT/join/.invitation.json" > /dev/null
mv "$ROOT/join/.invitation.json" "$ROOT/join/invitation.json"
audit "joined"
