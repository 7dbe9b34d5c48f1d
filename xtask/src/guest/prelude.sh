#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
ip link set lo up

# Prints the value of na.<name>=<value> on the kernel's command line.
argument() {
    for word in $(cat /proc/cmdline); do
        case "$word" in "na.$1="*) echo "${word#*=}" ;; esac
    done
}
