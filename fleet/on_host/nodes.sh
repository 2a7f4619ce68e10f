# Who is enrolled, as JSON.
docker exec fedssh-charity-1 charity nodes list --json
