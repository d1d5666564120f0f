/* The durable store: an append-only log of checksummed text records,
 *     <crc32 of the rest, 8 hex digits> <n> <text>\n
 * and an index of it in memory. What was answered OK has been through fdatasync.
 * A record that is incomplete or does not fit its checksum was never answered: the log
 * ends before the first such record. */
#define _GNU_SOURCE
#include "mini.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CHECKSUM_DIGITS = 8,
    N_DIGITS_MAX = 18, /* fits 64 bits whatever the digits */
    RECORD_MAX_BYTES = LINE_MAX_BYTES + CHECKSUM_DIGITS + 4,
    INDEX_START = 1024, /* a power of two, as is every later size */
};

struct entry {
    uint64_t n;
    uint64_t text_at; /* offset in the log; 0 = free, since a record starts with its checksum */
    uint32_t text_length;
};

static int log_fd = -1, dirty;
static uint64_t log_bytes;
static struct entry *index_;
static size_t index_size, record_count;

static uint32_t crc32(const char *bytes, size_t length)
{
    uint32_t crc = ~0u;
    while (length--) {
        crc ^= (unsigned char)*bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
    }
    return ~crc;
}

/* The entry of n, or the free one where it belongs. */
static struct entry *find(uint64_t n)
{
    size_t at = (n * 0x9E3779B97F4A7C15u) >> 20 & (index_size - 1);
    while (index_[at].text_at && index_[at].n != n)
        at = (at + 1) & (index_size - 1);
    return &index_[at];
}

static void resize_index(size_t size)
{
    struct entry *old = index_;
    size_t old_size = index_size;
    index_size = size;
    index_ = calloc(size, sizeof *index_);
    if (!index_)
        die("memory");
    for (size_t i = 0; i < old_size; i++)
        if (old[i].text_at)
            *find(old[i].n) = old[i];
    free(old);
}

static void insert(struct entry entry)
{
    if (record_count * 2 >= index_size)
        resize_index(index_size * 2);
    *find(entry.n) = entry;
    record_count++;
}

/* Reads digits at *rest and moves *rest behind them. */
static int take_n(char **rest, uint64_t *n)
{
    size_t digits = strspn(*rest, "0123456789");
    if (!digits || digits > N_DIGITS_MAX)
        return 0;
    *n = strtoull(*rest, NULL, 10);
    *rest += digits;
    return 1;
}

/* Takes one record of the log (NUL-terminated, without newline) into the index.
 * Returns 0 when it is torn. */
static int load_record(char *record, size_t length, uint64_t at)
{
    char *body = record + CHECKSUM_DIGITS + 1, *rest = body, *end;
    uint64_t n;
    if (length <= CHECKSUM_DIGITS + 1 || body[-1] != ' ')
        return 0;
    if (strtoul(record, &end, 16) != crc32(body, length - CHECKSUM_DIGITS - 1) || end != body - 1)
        return 0;
    if (!take_n(&rest, &n) || *rest++ != ' ')
        return 0;
    insert((struct entry){n, at + (uint64_t)(rest - record), (uint32_t)(length - (size_t)(rest - record))});
    return 1;
}

void store_open(const char *path)
{
    resize_index(INDEX_START);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    FILE *log = fd < 0 ? NULL : fdopen(dup(fd), "r");
    if (!log) {
        printf("mini: store: %s: %s\n", path, strerror(errno));
        return;
    }
    char *record = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&record, &size, log)) > 0 && record[length - 1] == '\n') {
        record[length - 1] = '\0';
        if (!load_record(record, (size_t)length - 1, log_bytes))
            break;
        log_bytes += (uint64_t)length;
    }
    free(record);
    fclose(log);
    off_t end = lseek(fd, 0, SEEK_END);
    if ((uint64_t)end > log_bytes) {
        printf("mini: store: %llu torn bytes dropped\n", (unsigned long long)end - log_bytes);
        if (ftruncate(fd, (off_t)log_bytes) < 0)
            die("truncate");
    }
    /* The file's name must be as durable as what is in it. */
    if (fsync(fd) < 0)
        die("fsync");
    sync();
    log_fd = fd;
}

void store_sync(void)
{
    if (!dirty)
        return;
    /* After a failed sync nobody can tell what is on the disk: answer nothing more. */
    if (fdatasync(log_fd) < 0)
        die("fdatasync");
    dirty = 0;
}

static void put(struct connection *c, uint64_t n, const char *text, size_t length)
{
    char record[RECORD_MAX_BYTES + 1], stored[LINE_MAX_BYTES];
    struct entry *known = find(n);
    if (known->text_at) {
        int same = known->text_length == length &&
                   pread(log_fd, stored, length, (off_t)known->text_at) == (ssize_t)length &&
                   !memcmp(stored, text, length);
        reply(c, same ? "OK %llu\n" : "ERR %llu conflict\n", (unsigned long long)n);
        return;
    }
    int used = CHECKSUM_DIGITS + 1;
    int text_offset = used + sprintf(record + used, "%llu ", (unsigned long long)n);
    memcpy(record + text_offset, text, length);
    size_t total = (size_t)text_offset + length;
    snprintf(record, CHECKSUM_DIGITS + 1, "%08x", crc32(record + used, total - (size_t)used));
    record[CHECKSUM_DIGITS] = ' ';
    record[total++] = '\n';
    if (pwrite(log_fd, record, total, (off_t)log_bytes) != (ssize_t)total) {
        reply(c, "ERR %llu not stored: %s\n", (unsigned long long)n, strerror(errno));
        return;
    }
    insert((struct entry){n, log_bytes + (uint64_t)text_offset, (uint32_t)length});
    log_bytes += total;
    dirty = 1;
    counters->puts++;
    reply(c, "OK %llu\n", (unsigned long long)n);
}

static void get(struct connection *c, uint64_t n)
{
    char text[LINE_MAX_BYTES];
    const struct entry *known = find(n);
    if (!known->text_at) {
        reply(c, "NONE %llu\n", (unsigned long long)n);
    } else if (pread(log_fd, text, known->text_length, (off_t)known->text_at) < 0) {
        reply(c, "ERR %llu unreadable: %s\n", (unsigned long long)n, strerror(errno));
    } else {
        reply(c, "VALUE %llu ", (unsigned long long)n);
        reply_line(c, text, known->text_length);
    }
}

void answer_store(struct connection *c, char *line, size_t length)
{
    char *rest = line + 4;
    uint64_t n;
    if (log_fd < 0)
        reply(c, "ERR no disk at /data\n");
    else if (!strcmp(line, "COUNT"))
        reply(c, "COUNT %zu\n", record_count);
    else if (!strncmp(line, "GET ", 4) && take_n(&rest, &n) && !*rest)
        get(c, n);
    else if (!strncmp(line, "PUT ", 4) && take_n(&rest, &n) && *rest++ == ' ' && *rest)
        put(c, n, rest, length - (size_t)(rest - line));
    else
        reply(c, "ERR expected: PUT <n> <text>, GET <n> or COUNT\n");
}
