/* mini-services: process 1 of the demo guest.
 *
 *   TCP 7     echoes lines
 *   TCP 7000  <n in this connection> <clock tick> <line>: its output differs between the two
 *             copies of a guest in lockstep
 *   TCP 7001  durable store: PUT <n> <text>, GET <n>, COUNT
 *   HTTP 80   counters as JSON
 *
 * The store has a process of its own, so that a slow disk delays its clients alone. */
#define _GNU_SOURCE
#include "mini.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HTTP_HEADERS_MAX = 100 };

struct counters *counters;

static void answer_echo(struct connection *c, char *line, size_t length)
{
    reply_line(c, line, length);
}

static void answer_tick(struct connection *c, char *line, size_t length)
{
    reply(c, "%llu %llu ", (unsigned long long)c->line_count, (unsigned long long)monotonic_ns());
    reply_line(c, line, length);
}

static int status_of_request(const char *line)
{
    const char *version = strstr(line, " HTTP/1.");
    if (!version || !strchr(line, '/') || strchr(line, '/') > version)
        return 400;
    return strncmp(line, "GET ", 4) ? 405 : 200;
}

static void send_page(struct connection *c)
{
    char name[65] = "", body[256];
    const char *reason = c->status == 200 ? "OK" : c->status == 405 ? "Method Not Allowed" : "Bad Request";
    gethostname(name, sizeof name - 1);
    int length = snprintf(body, sizeof body,
                          "{\"hostname\": \"%s\", \"uptime_s\": %.3f, \"connections\": %llu, "
                          "\"lines\": %llu, \"puts\": %llu}\n",
                          name, (double)monotonic_ns() / 1e9, counters->connections, counters->lines,
                          counters->puts);
    if (c->status != 200)
        length = snprintf(body, sizeof body, "{\"error\": \"%s\"}\n", reason);
    reply(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
             "Connection: close\r\n\r\n%s", c->status, reason, length, body);
    c->closing = 1;
}

/* The request's first line decides; the head's other lines are only waited for. */
static void answer_http(struct connection *c, char *line, size_t length)
{
    if (!c->status)
        c->status = status_of_request(line);
    else if (c->line_count > HTTP_HEADERS_MAX)
        c->status = 400;
    if (!length || c->status == 400)
        send_page(c);
}

static const struct service line_services[] = {{7, answer_echo}, {7000, answer_tick}, {80, answer_http}};
static const struct service store_services[] = {{7001, answer_store}};

int main(void)
{
    struct watch watches[16];
    setvbuf(stdout, NULL, _IOLBF, 0);
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED)
        die("mmap");
    pid_t store = fork();
    if (store < 0)
        die("fork");
    if (store == 0) {
        store_open("/data/store.log");
        listen_on(store_services, 1);
        serve(NULL, 0, store_sync);
    }
    listen_on(line_services, sizeof line_services / sizeof *line_services);
    size_t count = machine_watches(watches, sizeof watches / sizeof *watches);
    serve(watches, count, NULL);
}
