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

# Prints the page at http://<host>[:<port>][/<path>], an IPv6 host in brackets; fails unless it is answered with 200
# in ten seconds. Not wget: a static busybox has none of the C library's name services, and its wget crashes.
fetch() {
    location=${1#http://}
    authority=${location%%/*} path=/
    case "$location" in */*) path=/${location#*/} ;; esac
    port=80
    case "$authority" in
    *]:* | [!\[]*:*) port=${authority##*:} authority=${authority%:*} ;;
    esac
    host=${authority#\[}
    host=${host%\]}
    reply=$(printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$authority" | timeout 10 nc "$host" "$port" | tr -d '\r')
    case "$reply" in
    HTTP/1.?" 200 "*) echo "$reply" | sed '1,/^$/d' ;;
    *) return 1 ;;
    esac
}
