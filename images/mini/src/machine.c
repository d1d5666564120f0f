/* What process 1 owes the machine: the power button, its children, and the line on the
 * console that says that the guest is ready. */
#define _GNU_SOURCE
#include "mini.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/input.h>
#include <linux/rtnetlink.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_NIC "eth0"
enum { INPUT_DEVICES_MAX = 8 };

/* Every acknowledged write is on the disk already, so nobody has to be asked nicely. */
static void shut_down(int how)
{
    printf("mini: %s\n", how == RB_AUTOBOOT ? "restarting" : "powering off");
    kill(-1, SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        continue;
    if (umount("/data") < 0 && errno != EINVAL && errno != ENOENT)
        printf("mini: /data: %s\n", strerror(errno));
    sync();
    reboot(how);
}

static void power_button_ready(int fd)
{
    struct input_event event;
    while (read(fd, &event, sizeof event) == sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
            shut_down(RB_POWER_OFF);
}

/* busybox tells process 1 by signal what poweroff, halt and reboot want. */
static void signal_ready(int fd)
{
    struct signalfd_siginfo signal;
    while (read(fd, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGTERM)
            shut_down(RB_AUTOBOOT);
        else if (signal.ssi_signo != SIGCHLD)
            shut_down(RB_POWER_OFF);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

/* Says once that the guest is ready, when its first NIC has an address. */
static void announce_ready(void)
{
    static int is_announced;
    struct ifaddrs *list, *item;
    char text[INET_ADDRSTRLEN];
    if (is_announced || getifaddrs(&list) < 0)
        return;
    for (item = list; item && !is_announced; item = item->ifa_next) {
        if (!item->ifa_addr || item->ifa_addr->sa_family != AF_INET || strcmp(item->ifa_name, FIRST_NIC))
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)item->ifa_addr)->sin_addr, text, sizeof text);
        /* On a line of its own, whatever the shell has printed. */
        printf("\nmini: ready %s in %.2fs\n", text, (double)monotonic_ns() / 1e9);
        is_announced = 1;
    }
    freeifaddrs(list);
}

static void address_ready(int fd)
{
    char message[8192];
    while (recv(fd, message, sizeof message, MSG_DONTWAIT) > 0)
        continue;
    announce_ready();
}

static int open_signals(void)
{
    static const int wanted[] = {SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        sigaddset(&set, wanted[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int open_addresses(void)
{
    struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&group, sizeof group) < 0)
        die("netlink");
    return fd;
}

size_t machine_watches(struct watch *watches, size_t limit)
{
    size_t count = 0;
    watches[count++] = (struct watch){open_signals(), signal_ready};
    watches[count++] = (struct watch){open_addresses(), address_ready};
    for (int i = 0; i < INPUT_DEVICES_MAX && count < limit; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            watches[count++] = (struct watch){fd, power_button_ready};
    }
    /* After the subscription: an address that was there before makes no message. */
    announce_ready();
    return count;
}
