/* The stage protocol for C programs: see tests/victims/harness/stage.rs. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void stage_path(char *path, size_t size, const char *word, int round)
{
    const char *dir = getenv("ICECORE_STAGE");
    if (!dir) {
        fprintf(stderr, "no stage\n");
        exit(1);
    }
    if (round < 0)
        snprintf(path, size, "%s/%s", dir, word);
    else
        snprintf(path, size, "%s/%s-%d", dir, word, round);
}

/* Says that the program is ready; true: check yourself; false: it is over. */
static int stage_next(void)
{
    static int round;
    static time_t deadline;
    char draft[512], ready[512], go[512], end[512];
    if (!deadline)
        deadline = time(NULL) + 300;
    stage_path(draft, sizeof draft, ".draft", -1);
    stage_path(ready, sizeof ready, "ready", round);
    stage_path(go, sizeof go, "go", round);
    stage_path(end, sizeof end, "end", -1);
    round++;
    int fd = open(draft, O_WRONLY | O_CREAT, 0666);
    if (fd < 0 || close(fd) || rename(draft, ready)) {
        perror(ready);
        exit(1);
    }
    for (;;) {
        if (access(go, F_OK) == 0)
            return 1;
        if (access(end, F_OK) == 0)
            return 0;
        if (time(NULL) > deadline) {
            fprintf(stderr, "abandoned by the harness\n");
            exit(1);
        }
        usleep(2000);
    }
}

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}
