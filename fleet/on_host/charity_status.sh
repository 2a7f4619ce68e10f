# Where the federation stands, as JSON.
docker exec fedssh-charity-1 charity status --json
