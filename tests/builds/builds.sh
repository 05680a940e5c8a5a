#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Real builds under the default list of system calls, over this machine's own root. Without a second
# argument those that ./check has the tools for; "whole" demands all (bench/run builds installs them); the
# names of some builds: those.
. "$(dirname "$0")/../scenario/lib.sh"
shift

tools() {
    case $1 in
    gcc) echo gcc g++ ;; make) echo make gcc ;; clang) echo clang ;; meson) echo meson ninja gcc ;;
    python) echo python3 ;; archives) echo tar gzip ;; cmake) echo cmake gcc make ;;
    autoconf) echo autoreconf automake gcc make ;; cargo) echo cargo rustc gcc ;; java) echo javac java jar ;;
    gdb) echo gdb gcc ;; *) echo "$1" ;;
    esac
}

# What is run for each. The exit status decides, and each checks what it made.
script() {
    case $1 in
    gcc) cat <<'SH'
printf '#include <vector>\n#include <thread>\nint twice(int);int main(int c,char**){std::vector<int> v(4,c);int s=0;std::thread t([&]{for(int x:v)s+=x;});t.join();return twice(s)!=8;}\n' >a.cc
printf 'int twice(int x){return 2*x;}\n' >b.cc
g++ -O2 -flto=2 -pipe -pthread -o a a.cc b.cc && ./a
g++ -g -fPIC -shared -o libb.so b.cc && g++ -o dynamic a.cc -pthread -L. -lb -Wl,-rpath,"$PWD" && ./dynamic
ar rcs libb.a b.cc && ranlib libb.a && objdump -h a >headers && strip a && ./a
SH
        ;;
    make) cat <<'SH'
for i in 1 2 3 4 5 6 7 8; do echo "int f$i(void){return $i;}" >f$i.c; done
echo 'int f8(void);int main(void){return f8()!=8;}' >main.c
printf 'objects=$(patsubst %%.c,%%.o,$(wildcard *.c))\nall: main\nmain: $(objects)\n\t$(CC) -o $@ $^\n' >Makefile
make -j4 -O && ./main && make -n | grep -q . && touch f1.c && make && ./main
SH
        ;;
    clang) cat <<'SH'
echo 'int main(int c,char**v){return c-1;}' >a.c
clang -O2 -g -o a a.c && ./a
clang -fsanitize=undefined -o b a.c && ./b
SH
        ;;
    meson) cat <<'SH'
mkdir sub; echo 'int g(void){return 0;}' >sub/g.c; echo 'int g(void);int main(void){return g();}' >main.c
printf "project('p','c')\nl=static_library('g','sub/g.c')\ne=executable('m','main.c',link_with:l)\ntest('t',e)\n" >meson.build
meson setup build && ninja -C build && meson test -C build
SH
        ;;
    python) cat <<'SH'
cat >t.py <<'PY'
import asyncio, ctypes, mmap, multiprocessing as m, os, shutil, sqlite3, subprocess, tempfile, threading, zipfile
def f(x): return x * x
async def child():
    p = await asyncio.create_subprocess_exec("true")
    return await p.wait()
if __name__ == "__main__":
    with m.Pool(3) as pool: assert sum(pool.map(f, range(100))) == 328350
    lock, q = m.Lock(), m.Queue(); q.put(1); assert q.get() == 1
    assert asyncio.run(child()) == 0
    # ioctl(0, TIOCGPTN) as musl passes it, its sign extended: there is such a call, whatever it says.
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(ctypes.c_long(16), ctypes.c_long(0), ctypes.c_long(0x80045430 - (1 << 32)), None) == -1
    assert os.uname().machine != "x86_64" or ctypes.get_errno() != 38, "ENOSYS"
    assert subprocess.run(["sh", "-c", "echo x"], capture_output=True).stdout == b"x\n"
    with tempfile.TemporaryDirectory() as d:
        db = sqlite3.connect(d + "/db"); db.execute("pragma journal_mode=wal"); db.execute("create table t(x)"); db.commit()
        shutil.copyfile("t.py", d + "/copy"); zipfile.ZipFile(d + "/z", "w").write("t.py")
    t = threading.Thread(target=f, args=(1,)); t.start(); t.join()
    os.sched_getaffinity(0); os.mkfifo("fifo"); os.setxattr("t.py", "user.x", b"1")
PY
python3 t.py && python3 -m compileall -q . && python3 -m unittest -q </dev/null || test $? = 5
SH
        ;;
    perl) cat <<'SH'
perl -MFile::Temp=tempfile -MIO::Socket::INET -MPOSIX -e 'my ($h,$n)=tempfile(); print $h "x"; close $h;
my $s=IO::Socket::INET->new(Listen=>1,LocalAddr=>"127.0.0.1") or die "listen: $!"; if(!fork){IO::Socket::INET->new(PeerAddr=>"127.0.0.1",PeerPort=>$s->sockport) or exit 1; exit 0}
$s->accept or die; wait; die "child" if $?; flock(STDIN,2); my $r=`echo deep | tr a-z A-Z`; die unless $r eq "DEEP\n"'
SH
        ;;
    archives) cat <<'SH'
mkdir d && echo a >d/a && ln d/a d/hard && ln -s a d/soft && mkfifo d/fifo
tar -czf d.tgz d && mkdir out && tar -xpf d.tgz -C out && test "$(readlink out/d/soft)" = a
cp -a d copy && diff d/a copy/a && mv copy moved && install -D -m 755 d/a x/y/z && find . -type f | sort | xargs sha256sum >sums
SH
        ;;
    cmake) cat <<'SH'
echo 'int main(void){return 0;}' >main.c
printf 'cmake_minimum_required(VERSION 3.10)\nproject(p C)\nfind_package(Threads)\nadd_executable(m main.c)\nenable_testing()\nadd_test(NAME t COMMAND m)\ninstall(TARGETS m DESTINATION bin)\n' >CMakeLists.txt
cmake -B build && cmake --build build -j2 && (cd build && ctest) && cmake --install build --prefix "$PWD/to" && to/bin/m
SH
        ;;
    autoconf) cat <<'SH'
printf 'AC_INIT([p],[1])\nAM_INIT_AUTOMAKE([foreign])\nAC_PROG_CC\nAC_CHECK_FUNCS([fork mmap getrandom statx])\nAC_CHECK_HEADERS([sys/epoll.h])\nAC_FUNC_MMAP\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n' >configure.ac
printf 'bin_PROGRAMS=m\nm_SOURCES=m.c\n' >Makefile.am; echo 'int main(void){return 0;}' >m.c
autoreconf -i && ./configure --prefix="$PWD/to" && make -j2 && make install && to/bin/m && make distcheck >dist.log 2>&1
SH
        ;;
    node) cat <<'SH'
cat >t.js <<'JS'
const {Worker,isMainThread,parentPort}=require('worker_threads'),cp=require('child_process'),http=require('http'),fs=require('fs');
if(!isMainThread){parentPort.postMessage(42)}else{
const w=new Worker(__filename);w.on('message',m=>{if(m!==42)process.exit(2);
const s=http.createServer((q,r)=>r.end('ok')).listen(0,'127.0.0.1',()=>http.get({port:s.address().port,host:'127.0.0.1'},r=>{r.resume();r.on('end',()=>{s.close();
fs.watch('.').close();fs.writeFileSync('o',cp.execSync('echo hi'));process.exit(fs.readFileSync('o')+''==='hi\n'?0:3)})}))})}
JS
node t.js
SH
        ;;
    cargo) cat <<'SH'
cargo init --offline --vcs none --name p . && printf '\n#[test]\nfn t() { assert_eq!(2, 1 + 1); }\n' >>src/main.rs
cargo build --offline && cargo test --offline && cargo build --offline --release && target/release/p
SH
        ;;
    go) cat <<'SH'
printf 'module p\n\ngo 1.18\n' >go.mod
printf 'package main\nimport ("fmt";"net";"os/exec")\nfunc main(){c:=make(chan int);go func(){c<-1}();<-c\nl,e:=net.Listen("tcp","127.0.0.1:0");if e!=nil{panic(e)};l.Close()\no,e:=exec.Command("echo","x").Output();if e!=nil{panic(e)};fmt.Print(string(o))}\n' >main.go
printf 'package main\nimport "testing"\nfunc TestX(t *testing.T){}\n' >main_test.go
go build -o p . && ./p && go vet . && go test .
SH
        ;;
    java) cat <<'SH'
mkdir c; printf 'import java.util.stream.*;import java.nio.file.*;public class A{public static void main(String[] a)throws Exception{if(IntStream.range(0,1000).parallel().sum()!=499500)System.exit(1);Files.writeString(Path.of("o"),"x");new ProcessBuilder("true").start().waitFor();}}\n' >A.java
javac -d c A.java && java -cp c A && jar cf a.jar -C c . && java -XX:+UseG1GC -cp a.jar A
SH
        ;;
    git) cat <<'SH'
git init -q r && cd r && git config user.email a@b && git config user.name n
seq 1000 >f && git add . && git commit -qm one && git branch b && seq 2000 >f && git commit -qam two && git gc -q && git fsck
git clone -q . ../c && cd ../c && git log --oneline | wc -l | grep -q 2 && git worktree add -q ../w origin/b && git -C ../w status --short
SH
        ;;
    gdb) cat <<'SH'
echo 'int main(void){return 7;}' >a.c && gcc -g -o a a.c && gdb -batch -ex 'break main' -ex run -ex 'print 6*7' ./a | grep -q '= 42'
SH
        ;;
    esac
}

# Where tools are that were not installed by packages.
homes=()
for name in RUSTUP_HOME JAVA_HOME PYENV_ROOT; do [ -n "${!name:-}" ] && homes+=(-e "$name"); done
[ -d "$HOME/.rustup" ] && homes+=(-e "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}")
sandbox() {
    "$CROFT" sandbox -q --state "$folder/state" --root / -e "PATH=$PATH" -e HOME=/tmp/home -e LANG=C.UTF-8 \
        -e GOCACHE=/tmp/home/go -e GOFLAGS=-buildvcs=false -e CARGO_HOME=/tmp/home/cargo "${homes[@]}" \
        --workdir /croft-build --timeout 600 "$@"
}

quick="gcc make clang meson python perl archives"
whole="$quick cmake autoconf node cargo go java git"
tried=0
# build NAME [OPTION]...
build() {
    local name=$1 start=$SECONDS
    shift
    if ! sandbox "$@" -- /bin/sh -euc "mkdir -p /tmp/home; $(script "$name")" >"$folder/$name.log" 2>&1; then
        echo "$name does not build in the sandbox" >&2
        return 1
    fi
    tried=$((tried + 1))
    echo "$name: $((SECONDS - start)) s"
}

case ${1:-} in
"") names=$quick ;;
whole) names=$whole ;;
*) names=$* ;;
esac
for name in $names; do
    for tool in $(tools "$name"); do
        command -v "$tool" >/dev/null || { echo "$name: $tool is not installed" >&2; exit 1; }
    done
    build "$name"
done
if [ "${1:-}" = whole ] && command -v gdb >/dev/null; then
    build gdb --seccomp compat
fi
echo "$tried builds, all done"
