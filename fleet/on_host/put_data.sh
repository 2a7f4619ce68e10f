# Take data from standard input, a tar archive. Arguments: folder; the mark by which it is known
# What is there is replaced when all of the new is there.
folder=$ROOT/$1 mark=$2
rm -rf "$folder.part" && install -d -m 700 "$folder.part"
tar --extract --no-same-owner --no-same-permissions --directory "$folder.part"
chown -R 10001:10001 "$folder.part" && chmod -R u=rwX,go= "$folder.part"
rm -f "$ROOT/data.sha256"
rm -rf "$folder.old" && mv "$folder" "$folder.old" && mv "$folder.part" "$folder" && rm -rf "$folder.old"
printf '%s\n' "$mark" > "$ROOT/data.sha256"
audit "took data $mark"
