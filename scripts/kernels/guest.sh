#!/bin/busybox sh
# Process 1 of a guest, twice: first in the initial file system, then in the machine's files, where it runs the script that
# the kernel's command line names as meshd.script. What the script says goes to ttyS1, its status to ttyS2.

script() {
	sed 's/.*meshd\.script=\([^ ]*\).*/\1/' /proc/cmdline
}

first() {
	/bin/busybox --install -s /bin
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t devtmpfs devtmpfs /dev
	while read -r module; do
		insmod "/modules/$module.ko" || echo "module $module cannot be loaded"
	done </modules/order
	mount -t virtiofs -o ro machine /lower
	# Writes stay in the guest's memory.
	mount -t tmpfs tmpfs /over
	mkdir /over/upper /over/work
	mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work overlay /root
	for directory in proc sys dev; do
		mount -o move /$directory /root/$directory
	done
	cp /init /root/dev/init
	exec switch_root /root /dev/init second
}

second() {
	exec </dev/null
	mkdir -p /dev/shm /dev/pts
	mount -t tmpfs tmpfs /run
	mount -t tmpfs tmpfs /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t cgroup2 none /sys/fs/cgroup
	mount -t bpf bpf /sys/fs/bpf
	# Not the terminal's line ends: what comes out of ttyS1 is read as a file.
	stty -F /dev/ttyS1 -opost
	ip link set lo up
	sh "$(script)" >/dev/ttyS1 2>&1
	echo $? >/dev/ttyS2
	echo o >/proc/sysrq-trigger
	exec sleep 60
}

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if [ "$1" = second ]; then second; else first; fi
