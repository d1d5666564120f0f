/* Tries what a QEMU that was taken over would try, and says of each attempt `NAME ok` or `NAME ERRNO`.
 *
 *   probe attempts NAME=ARGUMENT...   then sleeps
 *   probe forks COUNT                 says how many processes it could make, then sleeps
 *   probe eat MIB                     takes memory, says `ate MIB`, then sleeps
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static int connects_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static int connects_tcp(const char *text) {
    char host[64];
    int port = 0;
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (sscanf(text, "%63[^:]:%d", host, &port) != 2)
        return -1;
    address.sin_port = htons(port);
    inet_pton(AF_INET, host, &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizeof address);
}

static int destination(const char *text, int *fd, struct sockaddr_in *address) { /* FD:HOST:PORT */
    char host[64];
    int port = 0;
    if (sscanf(text, "%d:%63[^:]:%d", fd, host, &port) != 3)
        return -1;
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_port = htons(port);
    return inet_pton(AF_INET, host, &address->sin_addr) - 1;
}

static int connects_again(const char *text) { /* a connection that it was given, with somebody else */
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    struct sockaddr_in address;
    struct timeval soon = {.tv_usec = 300000};
    int fd;
    if (destination(text, &fd, &address) || connect(fd, &nobody, sizeof nobody) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static int connects_by_sending(const char *text) { /* with a socket that it was given to listen */
    struct sockaddr_in address;
    struct timeval soon = {.tv_usec = 300000};
    int fd;
    if (destination(text, &fd, &address) || shutdown(fd, SHUT_RD) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    return sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : 0;
}

static int lists_interfaces(int fd) {
    char space[1024];
    struct ifconf found = {.ifc_len = sizeof space, .ifc_buf = space};
    return ioctl(fd, SIOCGIFCONF, &found);
}

static int changes_address(int tap) { /* the bridge takes frames to it for the host's own */
    struct ifreq request = {.ifr_hwaddr = {.sa_family = 1, .sa_data = {0x52, 0x54, 0, 1, 2, 3}}};
    return ioctl(tap, SIOCSIFHWADDR, &request);
}

static int makes_socket(int family, int type, int protocol) {
    int fd = socket(family, type, protocol);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static int ends_well(long child) { /* of a child that leaves with 0 */
    int status = 0;
    if (child < 0)
        return -1;
    if (child == 0)
        _exit(0);
    waitpid((pid_t)child, &status, __WALL);
    return 0;
}

static int takes_tap(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    int result = ioctl(fd, TUNSETIFF, &request);
    close(fd);
    return result;
}

static int traces(pid_t pid) {
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0)
        return -1;
    return ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 ? -1 : 0;
}

static int mounts(const char *path) {
    if (mount("none", path, "tmpfs", 0, "size=4k") < 0)
        return -1;
    return umount2(path, MNT_DETACH);
}

static int makes_node(const char *path) {
    if (mknod(path, S_IFCHR | 0600, makedev(1, 3)) < 0)
        return -1;
    return unlink(path);
}

static int makes_ring(void) { /* which makes and connects sockets past any filter of system calls */
    struct io_uring_params parameters = {0};
    long fd = syscall(SYS_io_uring_setup, 1, &parameters);
    if (fd >= 0)
        close((int)fd);
    return fd < 0 ? -1 : 0;
}

static int links(const char *text) { /* FROM:TO */
    char from[256], to[256];
    if (sscanf(text, "%255[^:]:%255s", from, to) != 2)
        return -1;
    return link(from, to) < 0 ? -1 : unlink(to);
}

static int in_child(int (*attempt)(void)) { /* what would change this process */
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0)
        _exit(attempt() < 0 ? errno : 0);
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

static int is_root_again(void) { return setresuid(0, 0, 0); }
static int is_root_group(void) { return setresgid(0, 0, 0); }
static int new_user_namespace(void) { return unshare(CLONE_NEWUSER); }
static int new_mount_namespace(void) { return unshare(CLONE_NEWNS); }
static int changes_root(void) { return chroot("/"); }

static int attempt(const char *name, const char *argument) {
    if (!strncmp(name, "read", 4))
        return opens(argument, O_RDONLY);
    if (!strncmp(name, "write", 5))
        return opens(argument, O_WRONLY);
    if (!strncmp(name, "create", 6)) {
        int result = opens(argument, O_WRONLY | O_CREAT | O_EXCL);
        return result < 0 ? result : unlink(argument);
    }
    if (!strncmp(name, "unix", 4))
        return connects_unix(argument);
    if (!strncmp(name, "tcp", 3))
        return connects_tcp(argument);
    if (!strncmp(name, "kill", 4))
        return kill(atoi(argument), 0);
    if (!strncmp(name, "trace", 5))
        return traces(atoi(argument));
    if (!strcmp(name, "tap"))
        return takes_tap(argument);
    if (!strcmp(name, "mount"))
        return mounts(argument);
    if (!strcmp(name, "node"))
        return makes_node(argument);
    if (!strcmp(name, "link"))
        return links(argument);
    if (!strcmp(name, "again"))
        return connects_again(argument);
    if (!strcmp(name, "by-sending"))
        return connects_by_sending(argument);
    if (!strcmp(name, "unmark"))
        return setsockopt(atoi(argument), SOL_SOCKET, SO_MARK, &(int){0}, sizeof(int));
    if (!strcmp(name, "interfaces"))
        return lists_interfaces(atoi(argument));
    if (!strcmp(name, "tap-address"))
        return changes_address(atoi(argument));
    if (!strcmp(name, "tap-owner"))
        return ioctl(atoi(argument), TUNSETOWNER, 0);
    if (!strcmp(name, "tap-carrier"))
        return ioctl(atoi(argument), TUNSETCARRIER, &(int){1});
    if (!strcmp(name, "ring"))
        return makes_ring();
    if (!strcmp(name, "raw-socket"))
        return makes_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (!strcmp(name, "packet-socket"))
        return makes_socket(AF_PACKET, SOCK_RAW, 0);
    if (!strcmp(name, "netlink-socket"))
        return makes_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (!strcmp(name, "root"))
        return in_child(is_root_again);
    if (!strcmp(name, "root-group"))
        return in_child(is_root_group);
    if (!strcmp(name, "user-namespace"))
        return in_child(new_user_namespace);
    if (!strcmp(name, "mount-namespace"))
        return in_child(new_mount_namespace);
    if (!strcmp(name, "clone-user-namespace"))
        return ends_well(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    if (!strcmp(name, "chroot"))
        return in_child(changes_root);
    if (!strcmp(name, "key"))
        return syscall(SYS_add_key, "user", "probe", "x", 1, -3) < 0 ? -1 : 0;
    errno = ENOTSUP;
    return -1;
}

static void forks(int count) {
    int made = 0;
    for (; made < count; made++) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0)
            for (;;)
                pause();
    }
    printf("made %d\n", made);
    fflush(stdout);
    for (;;)
        pause();
}

static void eats(long mib) {
    for (long taken = 0; taken < mib; taken++) {
        char *block = malloc(1 << 20);
        memset(block, 1 + taken % 255, 1 << 20);
    }
    printf("ate %ld\n", mib);
    fflush(stdout);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, _exit);
    if (argc == 3 && !strcmp(argv[1], "forks"))
        forks(atoi(argv[2]));
    if (argc == 3 && !strcmp(argv[1], "eat"))
        eats(atol(argv[2]));
    for (int i = 2; argc > 2 && !strcmp(argv[1], "attempts") && i < argc; i++) {
        char *name = argv[i], *argument = strchr(name, '=');
        if (argument)
            *argument++ = 0;
        errno = 0;
        int result = attempt(name, argument ? argument : "");
        if (result < 0)
            printf("%s %s\n", name, strerrorname_np(errno));
        else
            printf("%s ok\n", name);
    }
    printf("done\n");
    for (;;)
        pause();
}
