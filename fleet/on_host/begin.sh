# Begin a federation, unless there is one. Arguments: those of `charity init`
compose run --rm --no-deps --no-TTY --volume "$ROOT/door:/coordinator/door" charity init --if-needed "$@" < /dev/null
audit "charity init"
