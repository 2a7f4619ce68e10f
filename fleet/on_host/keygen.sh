# Make the site's key, unless there is one; print its public half.
[ -f "$ROOT/site/site_key.pub" ] || { compose run --rm --no-deps --no-TTY bob keygen < /dev/null > /dev/null; audit "made the site's key"; }
cat "$ROOT/site/site_key.pub"
