# This machine's own host key, made here: the one that it was born with has been on another machine.
# Arguments: make | take
cd /etc/ssh
if [ "$1" = make ]; then
  [ -f fedssh_new_key.pub ] || { rm -f fedssh_new_key; ssh-keygen -q -t ed25519 -N '' -C '' -f fedssh_new_key; }
  cut -d ' ' -f 1,2 fedssh_new_key.pub
else
  [ ! -f fedssh_new_key ] || mv fedssh_new_key ssh_host_ed25519_key
  [ ! -f fedssh_new_key.pub ] || mv fedssh_new_key.pub ssh_host_ed25519_key.pub
  rm -f ssh_host_rsa_key* ssh_host_ecdsa_key* ssh_host_dsa_key*
  if [ -d /run/systemd/system ]; then systemctl reload ssh 2>/dev/null || systemctl reload sshd; else kill -HUP "$(cat /run/sshd.pid)"; fi
fi
