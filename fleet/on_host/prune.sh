# Keep three releases, and the images that they name.
cd "$OPT/releases"
for old in $(ls | grep -x '[0-9]*' | sort -n | head -n -3); do [ "$old" = "$(release_of)" ] || rm -r "$old"; done
docker image ls --format '{{.Repository}}:{{.Tag}}' | grep '^fedssh-[a-z-]*:' | while read -r image; do
  grep -qF "\"$image\"" ./*/compose.yaml || docker rmi "$image" > /dev/null 2>&1 || true
done
