# Wait until Charity judges and the door listens. Argument: seconds
end=$(($(date +%s) + $1))
while [ "$(date +%s)" -lt "$end" ]; do
  started=$(docker inspect --format '{{.State.StartedAt}}' fedssh-charity-1)
  if running charity && docker logs --since "$started" fedssh-charity-1 2>&1 | grep -q '^charity: serving ' \
    && [ "$(docker inspect --format '{{.State.Health.Status}}' fedssh-door-1)" = healthy ]; then exit 0; fi
  [ "$(docker inspect --format '{{.RestartCount}}' fedssh-charity-1)" -lt 3 ] || fail "Charity does not stay up: $(docker logs --tail 1 fedssh-charity-1 2>&1)"
  sleep 0.5
done
fail "Charity is not ready after $1 s: $(docker logs --tail 1 fedssh-charity-1 2>&1); her door is $(docker inspect --format '{{.State.Status}}, {{.State.Health.Status}}' fedssh-door-1)"
