/* One epoll loop over listeners, connections and further descriptors. */
#define _GNU_SOURCE
#include "mini.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_PER_ROUND = 64, BACKLOG = 128, LISTENERS_MAX = 8 };

/* What an epoll event points at: its kind is the first member of each. */
enum kind { LISTENER, CONNECTION, WATCH };
struct slot {
    enum kind kind;
    int fd;
    const struct service *service;
    const struct watch *watch;
    struct connection *connection;
};

static int epoll_fd = -1;
static size_t connection_count;

void die(const char *what)
{
    fprintf(stderr, "mini: %s: %s\n", what, strerror(errno));
    exit(1);
}

uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void reply(struct connection *c, const char *format, ...)
{
    size_t room = OUT_BYTES - c->out_used;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(c->out + c->out_used, room, format, arguments);
    va_end(arguments);
    if (written > 0)
        c->out_used += (size_t)written < room ? (size_t)written : room - 1;
}

void reply_line(struct connection *c, const char *bytes, size_t length)
{
    memcpy(c->out + c->out_used, bytes, length);
    c->out[c->out_used + length] = '\n';
    c->out_used += length + 1;
}

static void set_interest(struct slot *slot, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = slot};
    if (epoll_ctl(epoll_fd, operation, slot->fd, &event) < 0)
        die("epoll_ctl");
}

static struct slot *new_slot(enum kind kind, int fd)
{
    struct slot *slot = calloc(1, sizeof *slot);
    if (!slot)
        die("memory");
    if (epoll_fd < 0 && (epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll");
    slot->kind = kind;
    slot->fd = fd;
    return slot;
}

void listen_on(const struct service *services, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(services[i].port)};
        int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&any, sizeof any) < 0 || listen(fd, BACKLOG) < 0)
            die("listen");
        struct slot *slot = new_slot(LISTENER, fd);
        slot->service = &services[i];
        set_interest(slot, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void accept_connection(struct slot *listener)
{
    int on = 1, fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct connection *c = connection_count < CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        static const char busy[] = "ERR too many connections\n";
        send(fd, busy, sizeof busy - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    c->fd = fd;
    c->service = listener->service;
    struct slot *slot = new_slot(CONNECTION, fd);
    slot->connection = c;
    set_interest(slot, EPOLL_CTL_ADD, EPOLLIN);
    connection_count++;
    counters->connections++;
}

static void drop(struct slot *slot)
{
    close(slot->fd);
    connection_count--;
    free(slot->connection);
    free(slot);
}

static void answer_one(struct connection *c, char *line, size_t length)
{
    if (length && line[length - 1] == '\r')
        length--;
    line[length] = '\0';
    c->line_count++;
    counters->lines++;
    c->service->answer(c, line, length);
}

static int has_room(const struct connection *c) { return OUT_BYTES - c->out_used > REPLY_MAX_BYTES; }

/* Answers whole lines while there is room for their replies. */
static void answer_lines(struct connection *c)
{
    size_t start = 0;
    while (!c->closing && has_room(c)) {
        char *line = c->in + start, *newline = memchr(line, '\n', c->in_used - start);
        if (!newline)
            break;
        start = (size_t)(newline - c->in) + 1;
        if (c->skipping)
            c->skipping = 0;
        else
            answer_one(c, line, (size_t)(newline - line));
    }
    c->in_used -= start;
    memmove(c->in, c->in + start, c->in_used);
    if (has_room(c) && c->in_used > LINE_MAX_BYTES && !memchr(c->in, '\n', c->in_used)) {
        if (!c->skipping)
            reply(c, "ERR line longer than %d bytes\n", LINE_MAX_BYTES);
        c->skipping = 1;
        c->in_used = 0;
    }
}

/* Returns 0 when the connection is broken. */
static int read_some(struct connection *c)
{
    size_t room = sizeof c->in - 1 - c->in_used;
    if (!room)
        return 1;
    ssize_t got = read(c->fd, c->in + c->in_used, room);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    c->at_end |= got == 0;
    c->in_used += (size_t)got;
    return 1;
}

/* Sends what is queued. Returns 0 when the connection is finished. */
static int send_some(struct connection *c)
{
    while (c->out_used) {
        ssize_t sent = send(c->fd, c->out, c->out_used, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        c->out_used -= (size_t)sent;
        memmove(c->out, c->out + sent, c->out_used);
    }
    return !c->closing;
}

/* A reader that does not read stops being read from: memory stays bounded. */
static void finish_round(struct slot *slot, void (*before_send)(void))
{
    struct connection *c = slot->connection;
    for (;;) {
        if (!send_some(c)) {
            drop(slot);
            return;
        }
        if (c->out_used || !memchr(c->in, '\n', c->in_used))
            break;
        answer_lines(c); /* lines that had no room for their replies before */
        before_send();
    }
    if (c->at_end && !c->out_used)
        drop(slot);
    else
        set_interest(slot, EPOLL_CTL_MOD, c->out_used ? EPOLLOUT : EPOLLIN);
}

static void nothing(void) {}

void serve(const struct watch *watches, size_t count, void (*before_send)(void))
{
    struct epoll_event events[EVENTS_PER_ROUND];
    if (!before_send)
        before_send = nothing;
    for (size_t i = 0; i < count; i++) {
        struct slot *slot = new_slot(WATCH, watches[i].fd);
        slot->watch = &watches[i];
        set_interest(slot, EPOLL_CTL_ADD, EPOLLIN);
    }
    for (;;) {
        struct slot *busy[EVENTS_PER_ROUND];
        int busy_count = 0, ready = epoll_wait(epoll_fd, events, EVENTS_PER_ROUND, -1);
        for (int i = 0; i < ready; i++) {
            struct slot *slot = events[i].data.ptr;
            if (slot->kind == LISTENER) {
                accept_connection(slot);
            } else if (slot->kind == WATCH) {
                slot->watch->ready(slot->fd);
            } else if (read_some(slot->connection)) {
                answer_lines(slot->connection);
                busy[busy_count++] = slot;
            } else {
                drop(slot);
            }
        }
        before_send();
        for (int i = 0; i < busy_count; i++)
            finish_round(busy[i], before_send);
    }
}
