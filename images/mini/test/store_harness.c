/* Runs the durable store without a guest: argv[1] is the log; requests on stdin, replies
 * on stdout. */
#include "../src/mini.h"

#include <stdio.h>
#include <string.h>

static struct counters no_counters;
struct counters *counters = &no_counters;

int main(int argc, char **argv)
{
    static struct connection c;
    char line[LINE_MAX_BYTES + 2];
    if (argc != 2)
        return 2;
    store_open(argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        answer_store(&c, line, strlen(line));
        store_sync();
        fwrite(c.out, 1, c.out_used, stdout);
        c.out_used = 0;
    }
}
