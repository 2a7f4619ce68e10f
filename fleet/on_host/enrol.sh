# Enrol by the public key on standard input, or invite once more who is enrolled; print the invitation.
# Arguments: add | invite; name; role; address or nothing
compose run --rm --no-deps --no-TTY --volume "$ROOT/door:/coordinator/door" --entrypoint sh charity -euc '
  cat > /tmp/key.pub
  case $1 in
    add) charity nodes add "$2" /tmp/key.pub --role "$3" ${4:+--address "$4"} ;;
    invite) charity nodes invite "$2" ${4:+--address "$4"} ;;
  esac' sh "$@"
[ "$1" = invite ] || audit "enrolled $2 as $3"
