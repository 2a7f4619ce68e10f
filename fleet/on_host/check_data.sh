# Data that lies on the machine already: can the rooms' user read it? Argument: its path
[ -e "$1" ] || fail "$1 is not on this machine"
setpriv --reuid 10001 --regid 10001 --clear-groups test -r "$1" \
  || fail "$1 cannot be read by the rooms' user: setfacl -R -m u:10001:rX $1, or chmod -R o+rX"
