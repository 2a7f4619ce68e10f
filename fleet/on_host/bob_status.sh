# Where the site stands, as JSON.
docker exec fedssh-bob-1 bob status --json
