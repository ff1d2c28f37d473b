# Shell half of the machine: the script that run.mjs writes calls these functions. They write results to
# /host/out/SCENARIO/ and progress to the console.
counters=/proc/rknpu_test
meminfo=/proc/rknpu_test_meminfo

live() { # anything alive in the driver?
  [ -e $counters ] && grep '^live_' $counters | grep -qv ' 0$'
}

settle() { # the kernel closes the files of a dead process a little after wait() has seen it die
  i=0
  while live && [ $i -lt 50 ]; do usleep 100000; i=$((i + 1)); done
  ! live
}

strays() { # processes left in the chroot
  for p in /proc/[0-9]*; do
    [ "$(readlink "$p/root")" = /root ] && echo "${p#/proc/}"
  done
}

claim() { # NAME: true for the first machine that asks; the folder is the host's, and so its mkdir is every machine's
  mkdir "/host/claimed/$1" 2>/dev/null
}

scenario() { # NAME PARAMETERS...; "-" for no module
  name=$1; shift
  out=/host/out/$name
  mkdir -p "$out"
  echo "@@ scenario $name"
  dmesg -c >/dev/null
  uptime >"$out/started"
  [ "$1" = - ] || insmod /host/rknpu_test.ko "$@" 2>"$out/insmod" || echo "insmod failed" >>"$out/failures"
  # A board without an IOMMU: the programs see its CMA area in /proc/meminfo.
  [ ! -e $meminfo ] || mount -o bind $meminfo /root/proc/meminfo
}

uptime() { cut -d' ' -f1 /proc/uptime; }

# STEP SECONDS USER COMMAND...: runs one program in the chroot; records its output and status.
step() {
  step=$1; limit=$2; user=$3; shift 3
  echo "@@ step $name $step"
  uptime >"$out/$step.times"
  if [ "$user" = root ]; then
    timeout -s KILL "$limit" chroot /root "$@" >"$out/$step.log" 2>&1
  else
    timeout -s KILL "$limit" chroot /root /bin/busybox su -s /bin/sh "$user" -c "$*" >"$out/$step.log" 2>&1
  fi
  echo $? >"$out/$step.status"
  uptime >>"$out/$step.times"
  after "$step"
}

# The same for a program that prints "holding" and is then killed.
killed() {
  step=$1; limit=$2; shift 3
  echo "@@ step $name $step"
  uptime >"$out/$step.times"
  chroot /root "$@" >"$out/$step.log" 2>&1 &
  pid=$!
  i=0
  while ! grep -q holding "$out/$step.log" && [ $i -lt $((limit * 5)) ]; do usleep 200000; i=$((i + 1)); done
  usleep 300000
  if grep -q holding "$out/$step.log" && { ! [ -e $counters ] || live; }; then s=0; else s=1; fi
  kill -9 $pid || s=1
  wait $pid 2>/dev/null
  echo "killed while holding" >>"$out/$step.log"
  echo $s >"$out/$step.status"
  uptime >>"$out/$step.times"
  after "$step"
}

after() {
  left=$(strays)
  if [ -n "$left" ]; then
    echo "$1: left processes behind: $(for p in $left; do tr '\0' ' ' <"/proc/$p/cmdline"; done)" >>"$out/failures"
    kill -9 $left
  fi
  settle ||
    echo "$1: objects are still alive: $(grep '^live_' $counters | grep -v ' 0$' | tr '\n' ' ')" >>"$out/failures"
}

misused() { # drops the violations of a step of deliberate misuse from the counters and from the kernel's log
  dmesg -c >"$out/misuse.dmesg"
  echo >$counters
}

cleared() { # forgets the totals of a step that asks for what the library never does
  [ ! -e $counters ] || echo >$counters
}

finish() {
  [ ! -e $meminfo ] || umount /root/proc/meminfo
  [ ! -e $counters ] || cat $counters >"$out/counters"
  [ ! -e $counters ] || rmmod rknpu_test || echo "rmmod failed" >>"$out/failures"
  dmesg -r -c >"$out/dmesg"
  uptime >"$out/finished"
  echo "@@ finished $name"
}
