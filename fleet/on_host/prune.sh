# Keep three releases that worked, and the images that they name.
cd "$OPT/releases"
kept=$(good_releases | tail -n 3)
for one in $(ls | grep -x '[0-9]*'); do
  printf '%s\n' "$kept" "$(release_of)" | grep -qx "$one" || rm -r "$one"
done
docker image ls --format '{{.Repository}}:{{.Tag}}' | grep '^fedssh-[a-z-]*:' | while read -r image; do
  grep -qF "\"$image\"" ./*/compose.yaml || docker rmi "$image" > /dev/null 2>&1 || true
done
