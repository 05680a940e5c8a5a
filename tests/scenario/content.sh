#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Content goes in and comes out unchanged: import, ls, cat, find, diff, export, blob, over a real server.
. "$(dirname "$0")/lib.sh"

tree=$folder/tree
mkdir -p "$tree/a/b" "$tree/empty"
echo one >"$tree/a/one"
printf '#!/bin/sh\n' >"$tree/a/run"
chmod +x "$tree/a/run"
ln -s ../one "$tree/a/b/link"
ln -s nowhere "$tree/dangling"
ln -s /a/one "$tree/absolute"
ln "$tree/a/one" "$tree/hard"
touch "$tree/zero"
printf 'bytes' >"$tree/"$'odd \xff\x01 name'
head -c 5000000 /dev/urandom >"$tree/large"
for i in $(seq 1500); do echo "$i" >"$tree/a/b/file$i"; done

serve server

echo "a directory comes back as it was"
digest=$("$CROFT" import --name tree "$tree")
"$CROFT" export tree "$folder/out"
diff -r --no-dereference "$tree" "$folder/out"
[ -x "$folder/out/a/run" ] && [ ! -x "$folder/out/a/one" ]
same "$(readlink "$folder/out/absolute")" /a/one

echo "the same content has the same digest, however it comes"
same "$digest" "$("$CROFT" import "$folder/out")"
for format in gnu pax; do
    tar -C "$tree" --format=$format -cf "$folder/$format.tar" .
    same "$digest" "$("$CROFT" import "$folder/$format.tar")"
done
tar -C "$tree" -czf "$folder/tree.tgz" .
same "$digest" "$("$CROFT" import - <"$folder/tree.tgz")"
same "$digest" "$("$CROFT" export tree - | "$CROFT" import -)"
"$CROFT" export "$digest" - >"$folder/one.tar"
"$CROFT" export --compress gzip "${digest/-//}" - | gunzip | cmp - "$folder/one.tar"

echo "permissions and times are kept on request"
cp -a "$tree" "$folder/kept"
chmod 640 "$folder/kept/a/one"
chmod 2711 "$folder/kept/a"
touch -d '1999-12-31 23:59:59.123456789' "$folder/kept/a/run" "$folder/kept/a"
touch -hd '2001-01-01' "$folder/kept/dangling"
touch -d '2002-02-02 02:02:02.02' "$folder/kept"
kept=$("$CROFT" import --modes --mtimes "$folder/kept")
same "$kept" "$(tar -C "$folder/kept" --format=pax -cf - . | "$CROFT" import --modes --mtimes -)"
for option in --modes --mtimes; do
    some=$("$CROFT" import $option "$folder/kept")
    [ "$some" != "$kept" ] && [ "$some" != "$digest" ]
    same "$some" "$(tar -C "$folder/kept" --format=pax -cf - . | "$CROFT" import $option -)"
done
same "$digest" "$("$CROFT" import "$folder/kept")"
chmod 4711 "$folder/kept/a/run"
kept=$("$CROFT" import --modes --mtimes "$folder/kept")
"$CROFT" export "$kept" "$folder/back"
(cd "$folder/kept" && chmod 711 a/run && chmod g-s a && find . -printf '%p %y %m %T@\n' | sort) >"$folder/expected"
(cd "$folder/back" && find . -printf '%p %y %m %T@\n' | sort) | diff "$folder/expected" -
same "$kept" "$("$CROFT" export "$kept" - | "$CROFT" import --modes --mtimes -)"
touch -d '@-1.500000001' "$folder/kept/zero"
touch -d '1935-05-05 05:05:05.75' "$folder/kept/a"
kept=$("$CROFT" import --modes --mtimes "$folder/kept")
same "$kept" "$("$CROFT" export "$kept" - | "$CROFT" import --modes --mtimes -)"
same "$kept" "$(tar -C "$folder/kept" --format=pax -cf - . | "$CROFT" import --modes --mtimes -)"
mkdir "$folder/untarred"
"$CROFT" export "$kept" - | tar -C "$folder/untarred" -xpf - 2>/dev/null
for name in zero a; do same "$(stat -c %.9Y "$folder/kept/$name")" "$(stat -c %.9Y "$folder/untarred/$name")"; done

echo "what is there is not sent again"
"$CROFT" import --verbose "$tree" 2>&1 | grep >/dev/null ' of which 0 B were sent'

echo "looking into a tree"
same one "$("$CROFT" cat tree:a/one)"
same one "$("$CROFT" cat tree:absolute)"
same one "$("$CROFT" cat tree:a/b/link)"
"$CROFT" cat tree:large | cmp - "$tree/large"
same 1501 "$("$CROFT" ls tree:a/b | wc -l)"
same a/run "$("$CROFT" find --type x tree)"
same large "$("$CROFT" find --least 1M tree)"
(cd "$tree" && find . -mindepth 1 -print0) | sed -z 's,^\./,,' | sort -z >"$folder/found"
"$CROFT" find --print0 tree | sort -z | cmp - "$folder/found"
"$CROFT" ls --json tree >"$folder/json"
python3 -c 'import json, sys; assert len(json.load(open(sys.argv[1]))) == 8' "$folder/json"
"$CROFT" du -s tree | grep >/dev/null "1506 files"

echo "names that are no UTF-8 are told whole as JSON, too"
"$CROFT" ls --json tree | python3 -c '
import base64, json, sys
assert [base64.b64decode(e["path_base64"]) for e in json.load(sys.stdin) if "path_base64" in e] == [b"odd \xff\x01 name"]'

echo "trees of a thousand directories below one another go in, through the server and out"
python3 - "$folder/deep" <<'EOF'
import os, sys
os.mkdir(sys.argv[1])
at = os.open(sys.argv[1], os.O_RDONLY)
for i in range(1000):
    os.mkdir("d", dir_fd=at)
    at, above = os.open("d", os.O_RDONLY, dir_fd=at), at
    os.close(above)
os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
EOF
deep=$("$CROFT" import --name deep "$folder/deep")
same 1001 "$("$CROFT" find deep | wc -l)"
"$CROFT" du -s deep | grep ' 1 files' >/dev/null
same "$deep" "$("$CROFT" export deep - | "$CROFT" import -)"
"$CROFT" diff deep "$deep"
# An action's result is looked for with all that its output directories name, over the plane as well.
python3 - "$plane" "$deep" <<'EOF'
import http.client, sys
def field(number, data):
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data
hash, size = sys.argv[2].split("-")
digest = field(1, hash.encode()) + bytes([2 << 3, int(size)])
directory = field(1, b"out") + bytes([5 << 3 | 2, len(digest)]) + digest
assert int(size) < 128 and len(directory) < 128
result = field(3, directory)
for method, body in (("PUT", result), ("GET", None)):
    connection = http.client.HTTPConnection(sys.argv[1])
    connection.request(method, "/ac/" + "de" * 32, body)
    answer = connection.getresponse()
    assert answer.status == 200, (method, answer.status, answer.read())
EOF

echo "what a tree lacks is told with its path"
python3 - >"$folder/lacking" <<'EOF'
import sys
def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data
digest = field(1, b"a" * 64) + bytes([2 << 3, 77])
sys.stdout.buffer.write(field(2, field(1, b"lost") + field(2, digest)))
EOF
lacking=$("$CROFT" blob put "$folder/lacking")
same lost "$("$CROFT" ls "$lacking")"
for command in "ls -R" find du; do fails 1 'lost: blob aaaa' "$CROFT" $command "$lacking"; done

echo "two trees are compared"
cp -a "$tree" "$folder/other"
echo two >>"$folder/other/hard"
rm "$folder/other/dangling"
mkdir "$folder/other/new"
"$CROFT" import --name other "$folder/other" >/dev/null
fails 1 "" "$CROFT" diff tree other
same "$(printf '%s\n' '~ a/one (content)' '- dangling' '~ hard (content)' '+ new/')" \
    "$(cat "$folder/stdout")"
"$CROFT" diff tree tree

echo "permissions and times are compared where there are any"
"$CROFT" import --name kept --modes --mtimes "$folder/kept" >/dev/null
cp -a "$folder/kept" "$folder/changed"
chmod 600 "$folder/changed/a/one"
chmod 755 "$folder/changed/zero"
echo more >>"$folder/changed/zero"
touch -d '2003-03-03 03:03:03.5Z' "$folder/changed/a/run" "$folder/changed/a" "$folder/changed/zero"
touch -d '2004-04-04 04:04:04Z' "$folder/changed"
touch -hd '2005-05-05 05:05:05Z' "$folder/changed/dangling"
"$CROFT" import --name changed --modes --mtimes "$folder/changed" >/dev/null
fails 1 "" "$CROFT" diff kept changed
utc() { date -ud "@$(stat -c %.9Y "$folder/kept/$1")" +%Y-%m-%dT%H:%M:%S.%NZ | sed 's/\.000000000//'; }
same "$(printf '%s\n' "~ ./ (mtime $(utc .) -> 2004-04-04T04:04:04Z)" "~ a/ (mtime $(utc a) -> 2003-03-03T03:03:03.500000000Z)" \
    '~ a/one (mode 0640 -> 0600)' "~ a/run (mtime $(utc a/run) -> 2003-03-03T03:03:03.500000000Z)" \
    "~ dangling (mtime $(utc dangling) -> 2005-05-05T05:05:05Z)" \
    "~ hard (mode 0640 -> 0600)" "~ zero (content, mode 0644 -> 0755, mtime $(utc zero) -> 2003-03-03T03:03:03.500000000Z)")" "$(cat "$folder/stdout")"
"$CROFT" diff --json kept changed >"$folder/json" || true
python3 - "$folder/json" <<'EOF'
import json, sys
root, _, one, _, _, _, zero = json.load(open(sys.argv[1]))
assert (root["path"], root["what"], root["mtime"]["to"]) == (".", "mtime", "2004-04-04T04:04:04Z"), root
assert (one["what"], one["mode"]) == ("mode", {"from": "0640", "to": "0600"}) and "mtime" not in one, one
assert (zero["what"], zero["mode"]["to"]) == ("content, mode, mtime", "0755"), zero
EOF
modes=$("$CROFT" import --modes "$folder/kept")
"$CROFT" diff --json kept "$modes" >"$folder/json" || true
python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert {(e["what"], e["mtime"]["to"]) for e in d} == {("mtime", None)}, d' \
    "$folder/json"
plain=$("$CROFT" import "$folder/kept")
fails 1 "" "$CROFT" diff "$modes" "$plain"
same "$(printf '%s\n' '~ a/ (mode 0711 -> 0755)' '~ a/one (mode 0640 -> 0644)' '~ a/run (mode 0711 -> 0755)' '~ hard (mode 0640 -> 0644)')" "$(cat "$folder/stdout")"

echo "several at once"
printf 'first=%s\nsecond=%s\n' "$tree/a" "$folder/gnu.tar" >"$folder/list"
"$CROFT" import --list "$folder/list" >"$folder/stdout"
grep -qx "second $digest" "$folder/stdout"
"$CROFT" diff first tree:a

echo "the names are listed"
same "changed deep first kept other second tree" "$("$CROFT" ls | xargs)"
"$CROFT" ls -l | grep -q "^20..-..-.. ..:..  $digest *  tree\$"
"$CROFT" ls --json | python3 -c '
import json, sys
assert {name["name"]: name["digest"] for name in json.load(sys.stdin)}["tree"] == sys.argv[1]' "$digest"
same "" "$("$CROFT" ls --instance elsewhere)"

echo "merging"
mkdir -p "$folder/m1/usr/bin" "$folder/m2/usr/bin" "$folder/m3/usr"
echo x >"$folder/m1/usr/bin/x"
echo x >"$folder/m2/usr/bin/x"
echo y >"$folder/m2/usr/bin/y"
echo file >"$folder/m3/usr/bin"
merged=$("$CROFT" import "$folder/m1" "$folder/m2")
same "usr usr/bin usr/bin/x usr/bin/y" "$("$CROFT" ls -R "$merged" | xargs)"
fails 1 "usr/bin: a directory and a file want this place" "$CROFT" import "$folder/m1" "$folder/m3"

echo "blobs"
blob=$("$CROFT" blob put "$tree/large")
"$CROFT" blob get "$blob" | cmp - "$tree/large"
absent=$(printf '%064d-7' 0)
same "$absent" "$("$CROFT" blob missing "$blob" "$absent")"
fails 1 "" "$CROFT" blob stat "$absent"

echo "mistakes are explained"
fails 1 '`croft ls` lists the names' "$CROFT" ls nothing
fails 1 'there is no "a/two"' "$CROFT" cat tree:a/two
fails 1 'is a directory' "$CROFT" cat tree:a
fails 1 'is not empty' "$CROFT" export tree "$tree"
# What this machine refuses has nothing to do with certificates. The program stands where everybody may execute it.
everybody=$(mktemp -d /var/tmp/croft-content-XXXXXX)
chmod 755 "$everybody"
cp "$CROFT" "$everybody/croft"
fails 1 'Permission denied' setpriv --reuid=65534 --clear-groups "$everybody/croft" export tree "$everybody/out"
same 0 "$(grep -c tls "$folder/stderr" || true)"
fails 2 'there is no option --nonsense' "$CROFT" ls --nonsense tree
fails 2 'an argument is missing' "$CROFT" import
fails 2 'it looks like a digest' "$CROFT" import --name "$digest" "$tree"
head -c 999 /dev/urandom >"$folder/junk"
fails 1 'reading' "$CROFT" import "$folder/junk"
tar -C "$tree" --transform 's,^a/one,../evil,' -cf "$folder/evil.tar" a/one 2>/dev/null
fails 1 'leads outside' "$CROFT" import "$folder/evil.tar"
fails 1 'is the server running there' "$CROFT" ls --server grpc://127.0.0.1:1 tree

echo "all is there after the server is killed"
crash
serve server
rm -rf "$folder/out"
"$CROFT" export tree "$folder/out"
diff -r --no-dereference "$tree" "$folder/out"

echo "the store is as it should be, beside the server and without it"
"$CROFT" store stat --state "$folder/server" | grep '^blobs ' >/dev/null
"$CROFT" fsck --state "$folder/server" | grep '^clean' >/dev/null
same '{"freed_blobs": 0, "freed_bytes": 0}' "$("$CROFT" gc --json | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)))')"
kill -TERM "$server"
wait "$server"
"$CROFT" fsck --state "$folder/server" | grep '^clean' >/dev/null
fails 1 "--state names the state directory" "$CROFT" fsck --state "$folder/out"
chmod 700 "$folder"
fails 1 "Permission denied" setpriv --reuid=65534 --clear-groups "$everybody/croft" fsck --state "$folder/server"
rm -r "$everybody"
mount --bind "$folder/server" "$folder/server"
mount -o remount,bind,ro "$folder/server"
fsck=$("$CROFT" fsck --state "$folder/server" || true)
umount "$folder/server"
grep '^clean: .* only to be read' <<<"$fsck" >/dev/null

echo "damage is found, set aside, and put right by importing again"
python3 - "$folder/server/store" "$tree/large" <<'PYTHON'
import os, sys
needle = open(sys.argv[2], "rb").read()[4096:4160]
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "r+b") as file:
            at = file.read().find(needle)
            if at >= 0:
                file.seek(at)
                file.write(b"damaged!")
                sys.exit()
sys.exit("the file's bytes are nowhere in the store")
PYTHON
fails 1 "" "$CROFT" fsck --state "$folder/server"
grep '^damaged' "$folder/stdout" >/dev/null
"$CROFT" fsck --repair --state "$folder/server" >/dev/null
"$CROFT" fsck --state "$folder/server" | grep '^clean' >/dev/null
serve server
"$CROFT" import --name tree "$tree" >/dev/null
"$CROFT" cat tree:large | cmp - "$tree/large"

echo "of an index that cannot be read a new one is made"
for damage in "truncate -s 4096" "truncate -s 0" "dd status=none conv=notrunc if=/dev/zero bs=8192 count=1 of="; do
    kill -TERM "$server"
    wait "$server"
    index=$folder/server/store/index/data.mdb
    case $damage in *=) $damage"$index" ;; *) $damage "$index" ;; esac
    if ! "$CROFT" fsck --state "$folder/server" >"$folder/stdout" 2>"$folder/stderr"; then
        grep -F 'croft fsck --repair' "$folder/stderr" >/dev/null
        fails 1 'croft fsck --repair' "$CROFT" serve --state "$folder/server" --listen 127.0.0.1:0 --plane 127.0.0.1:0
        "$CROFT" fsck --repair --state "$folder/server" 2>/dev/null | grep '^clean' >/dev/null
    fi
    serve server
    rm -rf "$folder/out"
    "$CROFT" export "$digest" "$folder/out"
    diff -r --no-dereference "$tree" "$folder/out"
done
