# Take an image from standard input, as `docker save` writes it. Argument: its name
docker load --quiet > /dev/null
docker image inspect "$1" > /dev/null
audit "loaded $1"
