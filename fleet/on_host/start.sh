# Start what is not running yet; what runs is left alone. Arguments: services, or none for all
"$OPT/start" --no-recreate "$@" 2>&1 | tail -n 20 > "$ROOT/start.log" || fail "not started: $(tail -n 1 "$ROOT/start.log")"
for one in $(compose config --services); do
  case " ${*:-$one} " in *" $one "*) docker inspect "fedssh-$one-1" > /dev/null 2>&1 || fail "not started: $(tail -n 1 "$ROOT/start.log")" ;; esac
done
audit "started ${*:-all}"
