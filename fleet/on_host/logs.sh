# What rooms said. Arguments: how many lines; yes to go on; rooms, or none for all
last=$1 follow=$2; shift 2
[ "$follow" = no ] && exec docker compose --ansi never --file "$OPT/current/compose.yaml" logs --no-color --tail "$last" "$@"
exec docker compose --ansi never --file "$OPT/current/compose.yaml" logs --no-color --tail "$last" --follow "$@"
