/* Shared by the parts of mini-services. */
#ifndef MINI_H
#define MINI_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LINE_MAX_BYTES = 4096, /* longest request line, without its newline */
    REPLY_MAX_BYTES = LINE_MAX_BYTES + 64,
    OUT_BYTES = 4 * REPLY_MAX_BYTES,
    CONNECTIONS_MAX = 1000, /* per process; bounds memory to about 20 MiB */
};

/* Lives in memory shared by the processes. */
struct counters {
    atomic_ullong connections, lines, puts;
};
extern struct counters *counters;

struct service;
struct connection {
    int fd;
    const struct service *service;
    uint64_t line_count;
    size_t in_used, out_used;
    int skipping; /* inside a line that was too long */
    int at_end;   /* the peer sends nothing more, but may still read */
    int closing;  /* close once everything is sent */
    int status;   /* HTTP: of the request whose head is being read, 0 before it */
    char in[LINE_MAX_BYTES + 2];
    char out[OUT_BYTES];
};

struct service {
    uint16_t port;
    /* Answers one line (without newline, NUL-terminated) by reply(). */
    void (*answer)(struct connection *, char *line, size_t length);
};

/* A further descriptor for the loop to watch. */
struct watch {
    int fd;
    void (*ready)(int fd);
};

/* Queue a reply; the loop guarantees REPLY_MAX_BYTES of room per line. */
void reply(struct connection *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void reply_line(struct connection *, const char *bytes, size_t length);

uint64_t monotonic_ns(void);
_Noreturn void die(const char *what);

/* loop.c: listens and serves for ever. before_send runs after each round of requests
 * and before any of their replies leaves: the store makes a whole round durable at once. */
void listen_on(const struct service *services, size_t count);
_Noreturn void serve(const struct watch *watches, size_t count, void (*before_send)(void));

/* store.c: the durable store. Without a disk every request is answered by an error. */
void store_open(const char *path);
void store_sync(void);
void answer_store(struct connection *, char *line, size_t length);

/* machine.c: what process 1 owes the machine (power button, children, the ready line). */
size_t machine_watches(struct watch *watches, size_t limit);

#endif
